//! Where a key file is that nothing names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::keys::KeyError;

/// The variable that names the folder of what the service manager hands over.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The key file in it.
pub const CREDENTIAL: &str = "key";

/// Where a key file is that nothing names: what the service manager hands over comes before the place for people.
pub fn default_place() -> Result<PathBuf, KeyError> {
    match credential(std::env::var_os(CREDENTIALS)) {
        Some(path) => Ok(path),
        None => own_place(),
    }
}

/// Where a person keeps the key file.
pub fn own_place() -> Result<PathBuf, KeyError> {
    default_path(std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"))
}

/// The key file that the service manager hands over, if it does (systemd.exec(5), `LoadCredential=`).
fn credential(folder: Option<OsString>) -> Option<PathBuf> {
    let path = PathBuf::from(folder?).join(CREDENTIAL);
    (path.is_absolute() && path.exists()).then_some(path)
}

/// The access that only the owner of a file should have. The service manager gives access to its credentials by lists,
/// which show as rights of the group (acl(5)).
pub(super) fn access_of_others(path: &Path) -> u32 {
    let credentials = std::env::var_os(CREDENTIALS);
    let is_credential = credentials.is_some_and(|folder| !folder.is_empty() && path.starts_with(folder));
    if is_credential { 0o007 } else { 0o077 }
}

/// XDG Base Directory Specification: a relative path is ignored, `~/.config` stands in for a missing one.
fn default_path(config_home: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, KeyError> {
    let absolute = |text: Option<OsString>| text.map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute(config_home).or_else(|| absolute(home).map(|home| home.join(".config")));
    folder.map(|folder| folder.join("skyorg").join("key")).ok_or(KeyError::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_manager_hands_over_is_taken_where_it_is_there() {
        let folder = std::env::temp_dir().join(format!("skyorg-credentials-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("ours");
        let found = || credential(Some(folder.clone().into_os_string()));
        assert_eq!((found(), credential(None), credential(Some("".into()))), (None, None, None));
        std::fs::write(folder.join(CREDENTIAL), "").expect("writes");
        assert_eq!(found(), Some(folder.join("key")));
        std::fs::remove_dir_all(&folder).expect("ours");
    }

    #[test]
    fn the_default_file_follows_the_xdg_specification() {
        let path = |config: &str, home: &str| {
            default_path(Some(config.into()), Some(home.into())).map(|path| path.display().to_string())
        };
        assert_eq!(path("/config", "/home/u").expect("a path"), "/config/skyorg/key");
        assert_eq!(path("", "/home/u").expect("a path"), "/home/u/.config/skyorg/key");
        assert_eq!(path("relative", "/home/u").expect("a path"), "/home/u/.config/skyorg/key");
        assert!(matches!(path("", ""), Err(KeyError::NoHome)));
        assert!(matches!(default_path(None, None), Err(KeyError::NoHome)));
    }
}
