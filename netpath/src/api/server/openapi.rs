//! The API's document, made from the routes and their types.

use std::sync::LazyLock;

use utoipa::{
    OpenApi as _,
    openapi::{
        ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, ResponseBuilder,
        path::{Operation, PathItem},
    },
};

use super::{API, timed, untimed};
use crate::api::types::{Failure, FlowSort, FlowState, Prefix, Protocol};

/// What every request may be answered with, beside what its route says.
const ALWAYS: [(&str, &str); 4] = [
    ("400", "The request is not valid"),
    ("403", "The caller may not do that: members of `api.group` may read, root may do everything"),
    ("500", "The kernel or the store refused; what was begun is undone"),
    ("503", "The agent is ending, or has too much to do; try again in a moment"),
];

const DESCRIPTION: &str = "HTTP and JSON over the unix socket of a node's agent, `/run/netpath/INSTANCE/agent.sock`. \
    Every answer has the headers `netpath-api`, the version that all paths begin with, and `netpath-version`. Every answer \
    with a status of 400 and above is a `Failure`. A request has at most 64 KiB and is here within 10 s; an answer takes 60 s \
    at most, but for events and uninstall.";

/// Types that no route names: the failure of each, and those of queries.
#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(Failure, FlowSort, FlowState, Prefix, Protocol)))]
struct Shared;

/// The OpenAPI document of this agent's API.
pub fn document() -> &'static OpenApi {
    static DOCUMENT: LazyLock<OpenApi> =
        LazyLock::new(|| finish(Shared::openapi().merge_from(timed().merge(untimed()).into_openapi())));
    &DOCUMENT
}

/// Adds what holds for all routes.
fn finish(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("The agent of a netpath node")
        .version(API)
        .description(Some(DESCRIPTION))
        .build();
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        let responses = &mut operation.responses.responses;
        for (status, words) in ALWAYS {
            let response = ResponseBuilder::new().description(words).build();
            responses.entry(status.to_owned()).or_insert(RefOr::T(response));
        }
        for (_, response) in responses.iter_mut().filter(|(status, _)| status.as_str() >= "400") {
            if let RefOr::T(response) = response {
                let failure = ContentBuilder::new().schema(Some(Ref::from_schema_name("Failure"))).build();
                response.content.insert("application/json".to_owned(), RefOr::T(failure));
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}
