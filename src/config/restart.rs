//! What cannot change while the process runs: a reload that would change it is refused whole.
//!
//! [`Change::Restart`] in the table of options says which these are.

use super::fault::{Fault, without_secrets};
use super::options::{Change, OPTIONS, Side};
use super::source::Read;
use super::{ClientConfig, ServerConfig};

/// Options of one side that cannot change.
fn fixed(side: Side) -> impl Iterator<Item = &'static str> {
    let fixed = OPTIONS.iter().filter(move |it| it.side == side && it.change == Change::Restart);
    fixed.map(|option| option.name)
}

/// What a server runs with.
fn server_has(config: &ServerConfig, option: &str) -> Option<String> {
    match option {
        "message" => Some(config.message.to_string()),
        "control" => Some(config.control.to_string()),
        "plain" => Some(config.plain.to_string()),
        _ => None,
    }
}

/// What a client runs with.
fn client_has(config: &ClientConfig, option: &str) -> Option<String> {
    match option {
        "server" => Some(config.server.to_string()),
        "message" => Some(config.message.as_ref().map_or("none".to_owned(), ToString::to_string)),
        "plain" => Some(config.plain.to_string()),
        "key" => Some(config.key.name.to_string()),
        _ => None,
    }
}

/// Options that a server would have to restart for.
pub(super) fn options_of_server(
    running: &ServerConfig,
    new: &ServerConfig,
) -> impl Iterator<Item = &'static str> {
    fixed(Side::Server).filter(|option| server_has(running, option) != server_has(new, option))
}

/// What a server would have to restart for.
pub fn of_server(running: &ServerConfig, new: &Read<ServerConfig>) -> Vec<Fault> {
    let values = |option| Some((server_has(running, option)?, server_has(&new.config, option)?));
    let faults = fixed(Side::Server).filter_map(|option| changed(new, option, values(option)?));
    faults.collect()
}

/// What a client would have to restart for.
pub fn of_client(running: &ClientConfig, new: &Read<ClientConfig>) -> Vec<Fault> {
    let config = &new.config;
    let values = |option| {
        let (old, mut found) = (client_has(running, option)?, client_has(config, option)?);
        if option == "key" && old == found && running.key.secret != config.key.secret {
            found = "another secret of that name".to_owned();
        }
        Some((old, found))
    };
    fixed(Side::Client).filter_map(|option| changed(new, option, values(option)?)).collect()
}

fn changed<C>(new: &Read<C>, name: &str, (old, found): (String, String)) -> Option<Fault> {
    // What looks like a secret is hidden only where it is shown: two of them look alike then.
    if old == found {
        return None;
    }
    let (old, found) = (without_secrets(&old), without_secrets(&found));
    let what = format!("wanted {name} as it is, {old}, found {found}: needs a restart");
    Some(new.places.fault(name, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Listen;
    use crate::config::file::Running;
    use crate::config::source::{Either, Occasion, read_file};
    use std::path::PathBuf;

    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Files {
            let folder = std::env::temp_dir().join(format!("skyorg-restart-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("ours");
            std::fs::write(folder.join("keys"), format!("office {}\n", "A".repeat(43))).expect("writes");
            std::fs::write(folder.join("other"), format!("office {}E\n", "A".repeat(42))).expect("writes");
            Files(folder)
        }

        fn read(&self, text: &str) -> Either {
            let path = self.0.join("f.toml");
            std::fs::write(&path, text).expect("writes");
            read_file(&path, &Running::default(), Occasion::Reload).expect("it is good")
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn two_names_that_look_like_secrets_are_told_apart() {
        let files = Files::new("alike");
        let text = |host: &str| format!("server = \"{host}\"\nkey = \"keys\"\n[publish.web]\nlocal = 80\n");
        let Either::Client(old) = files.read(&text("Office2026BerlinClientA")) else { panic!("a client's") };
        let Either::Client(new) = files.read(&text("Office2026BerlinClientB")) else { panic!("a client's") };
        assert_eq!(of_client(&old.config, &new).len(), 1);
    }

    fn told(faults: &[Fault]) -> Vec<String> {
        faults
            .iter()
            .map(|fault| fault.to_string().split("f.toml:").last().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn a_server_must_restart_for_its_ports_and_for_plain() {
        let files = Files::new("server");
        let server = |text: &str| match files.read(text) {
            Either::Server(read) => read,
            Either::Client(read) => panic!("{read:?}"),
        };
        let old = server("keys = \"keys\"\n").config;
        assert_eq!(of_server(&old, &server("keys = \"other\"\npool = 3\n[service.a]\nlisten = 1\n")), []);
        let new = server("keys = \"keys\"\nplain = true\nmessage = 4000\n");
        assert_eq!(
            told(&of_server(&old, &new)),
            [
                "3:1: wanted message as it is, *:33334, found *:4000: needs a restart",
                "2:1: wanted plain as it is, false, found true: needs a restart"
            ]
        );
        let old = ServerConfig { control: Listen::Any(1), ..old };
        let silent = told(&of_server(&old, &server("keys = \"keys\"\n")));
        assert_eq!(silent, ["1:1: wanted control as it is, *:1, found *:33335: needs a restart"]);
    }

    #[test]
    fn a_client_must_restart_for_its_server_and_its_key() {
        let files = Files::new("client");
        let client = |text: &str| match files.read(text) {
            Either::Client(read) => read,
            Either::Server(read) => panic!("{read:?}"),
        };
        let old = client("server = \"a\"\nkey = \"keys\"\n").config;
        assert_eq!(of_client(&old, &client("server = \"a\"\nkey = \"keys\"\nheartbeat = 9\n")), []);
        let new = client("server = \"b\"\nkey = \"other\"\nmessage = \"c:1\"\n");
        assert_eq!(
            told(&of_client(&old, &new)),
            [
                "1:1: wanted server as it is, a:33335, found b:33335: needs a restart",
                "3:1: wanted message as it is, none, found c:1: needs a restart",
                "2:1: wanted key as it is, office, found another secret of that name: needs a restart"
            ]
        );
    }

    #[test]
    fn what_the_table_marks_is_compared() {
        let files = Files::new("marked");
        let Either::Server(server) = files.read("keys = \"keys\"\n") else { panic!("a server's") };
        let Either::Client(client) = files.read("server = \"a\"\nkey = \"keys\"\n") else {
            panic!("a client's")
        };
        assert!(fixed(Side::Server).all(|option| server_has(&server.config, option).is_some()));
        assert!(fixed(Side::Client).all(|option| client_has(&client.config, option).is_some()));
        assert_eq!([Side::Server, Side::Client].map(|side| fixed(side).count()), [3, 4]);
    }
}
