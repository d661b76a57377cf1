//! Tests that need a network of their own: unshare(1) makes it, where the system lets it.

use std::process::Command;

/// Whether a program is there.
pub fn is_installed(program: &str, test: &[&str]) -> bool {
    let works = Command::new(program).args(test).output().is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: {program} {} does not work here", test.join(" "));
    }
    works
}

/// True in a network of our own, where this test runs a second time; outside it has passed then, or is skipped.
pub fn in_own_network(test: &str) -> bool {
    const INSIDE: &str = "SKYORG_IN_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !is_installed("unshare", &["-rn", "ip", "link", "set", "lo", "up"]) {
        return false;
    }
    let this = std::env::current_exe().expect("it runs");
    let script = "ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture";
    let mut command = Command::new("unshare");
    command.args(["-rn", "sh", "-c", script]).arg(this).arg(test).env(INSIDE, "1");
    assert!(command.status().expect("unshare starts").success(), "{test} in a network of its own");
    false
}
