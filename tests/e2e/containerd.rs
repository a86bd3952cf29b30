//! containerd's own client, `ctr`, with `--cni`.

use netpath::api::types::Pod;
use netpath_tests::wait;

use crate::engine::Host;

/// Starts containerd with the image.
pub(crate) fn start(host: &Host, configuration: &str) {
    host.run(&format!(
        "mkdir -p /etc/containerd && cat > /etc/containerd/config.toml <<'EOT'\n{configuration}\nEOT"
    ));
    host.run(
        "systemd-run --quiet --unit engine --property Delegate=yes --property KillMode=process containerd",
    );
    wait::until("containerd answers", || host.machine.try_run("ctr version").status.success());
    host.run("podman save --quiet --format oci-archive -o /root/image.tar image");
    host.run("ctr namespace create k8s.io; for space in default k8s.io; do ctr -n $space image import --snapshotter native /root/image.tar; done");
}

/// Starts a container that serves the page; `ctr` stays beside it, and lets go of its network when it ends.
fn serve(host: &Host, name: &str) -> Pod {
    host.run(&format!(
        "systemd-run --quiet --unit {name} ctr run --rm --cni --cpu-shares 0 --snapshotter native \
         localhost/image:latest {name} httpd -f -h /www -p 80"
    ));
    let own = format!("default-{name}");
    let of = |pod: &Pod| pod.attachment.as_ref().is_some_and(|attachment| attachment.container == own);
    wait::until("it has a pod", || host.pods().iter().any(of));
    host.pods().into_iter().find(of).expect("pod")
}

/// Kills a container, and waits until `ctr` has ended.
fn end(host: &Host, name: &str) {
    host.run(&format!("ctr task kill --signal KILL {name}"));
    wait::until("ctr has ended", || {
        !host.machine.try_run(&format!("systemctl is-active {name}")).status.success()
    });
}

const WITHOUT_CRI: &str = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]";

#[test]
fn containerd_ctr_containers_ipv4_and_ipv6() {
    let host = Host::start();
    start(&host, WITHOUT_CRI);
    let web = serve(&host, "web");
    assert!(web.netns.starts_with("/proc/"), "{web:#?}");
    host.serves(&web);
    let once = "ctr run --rm --cni --cpu-shares 0 --snapshotter native localhost/image:latest once";
    for address in ["198.18.1.2", "2001:db8:18:1::2", &web.addresses[0].to_string()] {
        let said = host.run(&format!("{once} ping -c 1 -W 3 {address}"));
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    assert_eq!(host.pods().len(), 1, "a container that ends leaves nothing");
    host.agent("restart");
    host.serves(&web);
    end(&host, "web");
    host.is_clean();

    serve(&host, "again");
    host.agent("stop");
    end(&host, "again");
    host.agent("start");
    host.is_clean();
}

#[test]
fn containerd_killed_keeps_containers_and_lets_them_go_later() {
    let host = Host::start();
    start(&host, WITHOUT_CRI);
    let web = serve(&host, "web");
    // Only then has ctr started what is in it.
    host.serves(&web);
    // First ctr, which would let go of the network when containerd ends.
    host.run("systemctl kill --signal KILL web; systemctl kill --signal KILL --kill-whom main engine");
    wait::until("it has ended", || !host.machine.try_run("ctr version").status.success());
    host.serves(&web);
    host.run("systemd-run --quiet --unit later --property KillMode=process containerd");
    wait::until("containerd answers", || host.machine.try_run("ctr version").status.success());
    host.serves(&web);
    // Whoever ran it has gone, and nobody asks to remove it: what is left is told.
    host.run("ctr task rm --force web; ctr container rm web || true");
    wait::until("the agent tells", || host.pods().first().is_none_or(|pod| pod.state.starts_with("failed")));
    println!("{:#?}", host.pods());
    host.collect();
    host.is_clean();
}
