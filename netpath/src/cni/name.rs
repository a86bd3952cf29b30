//! What the pod of an attachment is called.

use super::request::Arguments;
use crate::api::types::Attachment;

/// Longest name of a pod, bytes.
const LONGEST: usize = 63;
/// As much of a container's ID as engines show.
const ID: usize = 12;

/// A name that a person recognises, and that no other attachment has: namespace and name of the pod where the engine tells
/// them, else the start of the container's ID; then the digest of all that identifies it.
pub(super) fn of(attachment: &Attachment, arguments: &Arguments) -> String {
    let told = match (&arguments.namespace, &arguments.pod) {
        // podman gives the container's name as both.
        (Some(namespace), Some(pod)) if namespace != pod => format!("{namespace}.{pod}"),
        (_, Some(pod)) => pod.clone(),
        _ => attachment.container.chars().take(ID).collect(),
    };
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let digest = attachment.digest();
    let told: String = told.chars().map(good).take(LONGEST - 1 - digest.len()).collect();
    match told.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        true => format!("{told}-{digest}"),
        false => format!("pod-{digest}"),
    }
}
