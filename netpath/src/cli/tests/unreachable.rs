//! Commands without an agent.

use super::*;

#[test]
fn commands_end_with_status_3_if_nobody_listens() {
    let lines = [
        "pod add a",
        "pod rm a",
        "pod ls",
        "pod show a",
        "pod exec a -- true",
        "network ls",
        "flow ls",
        "flow flush --all",
        "drop ls",
        "monitor",
        "monitor --reason Malformed",
        "metrics",
        "drop ls --all",
        "status",
    ];
    for line in lines {
        let words = ["netpath", "--instance", "no-agent-here"].into_iter().chain(line.split(' '));
        let error = run(Cli::try_parse_from(words).unwrap()).unwrap_err();
        let report = Report::of(&error);
        assert_eq!(report.status, 3, "{line}: {report}");
        assert!(report.message.contains("no such socket"), "{line}: {report}");
        assert!(report.hint.unwrap().contains("netpath agent run"), "{line}");
    }
}

#[test]
fn removing_several_pods_keeps_the_status_of_the_first_failure() {
    let cli = Cli::try_parse_from(["netpath", "--instance", "no-agent-here", "pod", "rm", "a", "b"]).unwrap();
    assert_eq!(run(cli).unwrap(), ExitCode::from(3));
}
