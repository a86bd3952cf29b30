//! What can be typed.

use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn documented_lines_are_understood() {
    let lines = [
        "netpath agent run",
        "netpath agent run --config /etc/netpath.toml --uplink eth0 --uplink eth1",
        "netpath pod add web",
        "netpath pod add web --network blue --ip 10.0.0.9 --ip fd00::9 --mac 02:00:00:00:00:01 --netns /run/netns/x \
         --label a=b --label c=d --mtu 1400",
        "netpath pod add web --mode xdp",
        "netpath pod add web --publish 8080:80 --publish 192.0.2.1:7000-7003:7000-7003/udp --publish [::]:53:53/udp",
        "netpath pod set web --publish 8443:443 --unpublish 8080:80/tcp",
        "netpath publish ls",
        "netpath pod set web --mode xdp",
        "netpath pod set web --mode tc --masquerade no",
        "netpath pod rm web",
        "netpath pod rm web db",
        "netpath pod ls",
        "netpath pod show web",
        "netpath pod exec web -- ping -c 1 -o json 10.0.0.1",
        "netpath network ls",
        "netpath network add blue --subnet 10.62.0.0/24 --subnet fd00:62::/64 --masquerade no --inbound any --mtu 1400 \
         --no-masquerade 10.0.0.0/8 --no-masquerade fd00::/8",
        "netpath network set blue --masquerade yes --no-masquerade none --mtu 0",
        "netpath network rm blue green",
        "netpath pod add web --network blue --network green --no-masquerade --allow-address 203.0.113.80",
        "netpath flow ls",
        "netpath flow ls --pod web",
        "netpath flow ls --pod web --protocol tcp --state established --source 10.61.0.2 --destination 192.0.2.0/24 \
         --port 443 --translated --sort bytes --limit 10",
        "netpath flow flush --pod web",
        "netpath flow flush --protocol 47 --source 2001:db8::/32 -o json",
        "netpath flow flush --all -o json",
        "netpath drop ls",
        "netpath drop ls --all -o json",
        "netpath deny add 203.0.113.0/24 2001:db8::/32 192.0.2.1",
        "netpath deny rm 203.0.113.0/24 -o json",
        "netpath deny ls -o json",
        "netpath monitor",
        "netpath monitor --pod a --pod b --reason Malformed --protocol tcp --address 10.0.0.0/8 --port 80",
        "netpath metrics",
        "netpath agent openapi",
        "netpath monitor --pod web --drops",
        "netpath status",
        "netpath uninstall",
        "netpath lab up",
        "netpath lab run",
        "netpath lab run --once --keep",
        "netpath lab down",
        "netpath completions bash",
        "netpath man",
        "netpath man --dir /tmp/man1",
    ];
    for line in lines {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn global_options_are_valid_anywhere() {
    let lines = [
        "netpath --instance two -o json -v pod show web",
        "netpath pod --instance two -o json -v show web",
        "netpath pod show --instance two -o json -v web",
        "netpath pod show web --instance=two --output json -v",
        "netpath --instance two pod -o json show web -v",
    ];
    for line in lines {
        let global = parse(line).unwrap().global;
        assert_eq!(global.output, Format::Json, "{line}");
        assert_eq!(global.verbose, 1, "{line}");
        assert_eq!(global.instance, Instance::new("two").unwrap(), "{line}");
    }
}

#[test]
fn options_after_two_dashes_belong_to_the_command_in_the_pod() {
    let cli = parse("netpath pod exec web -- sh -o json -v --instance x").unwrap();
    assert_eq!(cli.global.output, Format::Table);
    let Command::Pod(pod::Command::Exec { name, command }) = cli.command else { panic!("not exec") };
    assert_eq!(name, "web");
    assert_eq!(command, ["sh", "-o", "json", "-v", "--instance", "x"]);
}

#[test]
fn wrong_lines_are_refused_with_status_2() {
    let lines = [
        "netpath",
        "netpath pod",
        "netpath frobnicate",
        "netpath pod add",
        "netpath pod add web --ip 10.0.0.300",
        "netpath pod add web --mac 01:00:00:00:00:01",
        "netpath pod add web --mtu 67",
        "netpath pod add web --label a",
        "netpath pod rm",
        "netpath pod exec web",
        "netpath pod exec web ls",
        "netpath -o yaml pod ls",
        "netpath --instance ../x status",
        "netpath status extra",
        "netpath completions csh",
        "netpath flow flush",
        "netpath flow flush --all --pod web",
        "netpath flow flush --pod web --limit 1",
        "netpath flow ls --all",
        "netpath flow ls --state open",
        "netpath flow ls --protocol gre",
        "netpath flow ls --source 10.0.0.0/33",
        "netpath flow ls --port 65536",
        "netpath flow ls --sort pod",
        "netpath monitor --address 10.0.0.0/33",
        "netpath monitor --port 65536",
        "netpath monitor --protocol gre",
    ];
    for line in lines {
        let Err(error) = parse(line) else { panic!("{line}: taken") };
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (line, kind) in [
        ("netpath --help", ErrorKind::DisplayHelp),
        ("netpath pod add --help", ErrorKind::DisplayHelp),
        ("netpath --version", ErrorKind::DisplayVersion),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 0), "{line}");
    }
}

#[test]
fn every_command_says_what_it_does() {
    fn check(command: &clap::Command) {
        for command in command.get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            check(command);
        }
    }
    check(&Cli::command());
}

#[test]
fn the_log_level_comes_from_the_line_then_the_environment_then_the_command() {
    let rows = [
        ("netpath status", None, "warn"),
        ("netpath agent run", None, "info"),
        ("netpath agent run", Some("netpath::net=trace"), "netpath::net=trace"),
        ("netpath agent run", Some(""), "info"),
        ("netpath status -v", Some("error"), "info"),
        ("netpath status -vv", None, "debug"),
        ("netpath status -vvv", None, "trace"),
    ];
    for (line, environment, filter) in rows {
        assert_eq!(parse(line).unwrap().log_filter(environment.map(str::to_owned)), filter, "{line}");
    }
}

#[test]
fn completions_name_commands_and_options() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = completions::script(shell);
        assert!(script.contains("uninstall") && script.contains("instance"), "{shell}");
    }
}
