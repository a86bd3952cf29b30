//! Whether this kernel can run netpath.

use super::{Facts, Finding};
use crate::datapath::AttachKind;

/// The oldest kernel that is tested: that of Debian 12.
const OLDEST: (u32, u32) = (6, 1);

/// The version, as far as only that tells.
pub(super) fn version(facts: &Facts) -> Finding {
    let release = &facts.kernel.release;
    if number(release) >= OLDEST {
        return Finding::ok(format!("Linux {release}"));
    }
    let (major, minor) = OLDEST;
    let seen = format!("Linux {release}, and netpath is made for {major}.{minor} and later");
    Finding::failed(seen, "boot a newer kernel")
}

/// Whether the kernel describes its types.
pub(super) fn btf(facts: &Facts) -> Finding {
    if facts.kernel.btf {
        return Finding::ok("the kernel has BTF");
    }
    Finding::warning(
        "there is no /sys/kernel/btf/vmlinux: bpftool and tracing tools cannot name the kernel's types",
        "boot a kernel that was built with CONFIG_DEBUG_INFO_BTF=y",
    )
}

/// Whether the verifier takes this build's programs, which also tells whether bpf(2) is allowed here.
pub(super) fn programs(facts: &Facts) -> Finding {
    let Err(reason) = &facts.kernel.programs else {
        return Finding::ok("the kernel takes all programs of this build");
    };
    let advice = if reason.contains("Operation not permitted") || reason.contains("os error 1)") {
        "run it as root, outside of a container that forbids bpf(2); `sysctl kernel.unprivileged_bpf_disabled` and the \
         kernel's lockdown (`cat /sys/kernel/security/lockdown`) do not concern root unless it says confidentiality"
    } else {
        "boot Linux 6.1 or later with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_NET_ACT_BPF; if it is, report this"
    };
    Finding::failed(reason.clone(), advice)
}

/// How programs are attached.
pub(super) fn tcx(facts: &Facts) -> Finding {
    let wanted = facts.config.as_ref().ok().and_then(|config| config.attach);
    match (facts.kernel.tcx, wanted) {
        (_, Some(AttachKind::Clsact)) => Finding::not_applicable("the configuration asks for clsact filters"),
        (true, _) => Finding::ok("the kernel has tcx: programs are replaced without a gap"),
        (false, None) => {
            Finding::not_applicable("the kernel has no tcx (6.6 and later); clsact filters are used")
        }
        (false, Some(AttachKind::Tcx)) => Finding::failed(
            "the configuration asks for tcx, and the kernel has none (6.6 and later)",
            format!("remove `attach = \"tcx\"` below [datapath] in {}", facts.file.display()),
        ),
    }
}

/// Major and minor version of a release like `6.1.0-18-amd64`.
fn number(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn an_old_kernel_fails() {
        let mut facts = Facts::healthy();
        for (release, outcome) in
            [("5.15.0", Outcome::Failed), ("6.1.0-18-amd64", Outcome::Ok), ("7.0-rc1", Outcome::Ok)]
        {
            facts.kernel.release = release.into();
            assert_eq!(version(&facts).status, outcome, "{release}");
        }
        facts.kernel.btf = false;
        assert_eq!(btf(&facts).status, Outcome::Warning);
    }

    #[test]
    fn a_refused_program_is_told_with_the_verifiers_words() {
        let mut facts = Facts::healthy();
        facts.kernel.programs = Err("loading the program to_pod: unknown func bpf_redirect_peer#155".into());
        let finding = programs(&facts);
        assert_eq!(finding.status, Outcome::Failed);
        assert!(
            finding.seen.contains("redirect_peer") && finding.advice.unwrap().contains("CONFIG_BPF_SYSCALL")
        );
        facts.kernel.programs = Err("loading: Operation not permitted (os error 1)".into());
        assert!(programs(&facts).advice.unwrap().contains("root"));
    }

    #[test]
    fn tcx_is_needed_only_where_it_is_asked_for() {
        let mut facts = Facts::healthy();
        facts.kernel.tcx = false;
        assert_eq!(tcx(&facts).status, Outcome::NotApplicable);
        facts.config.as_mut().unwrap().attach = Some(AttachKind::Tcx);
        assert_eq!(tcx(&facts).status, Outcome::Failed);
    }
}
