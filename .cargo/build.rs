//! What the linker leaves out of the released executable. Cargo.toml has no words for it.

use std::env;
use std::process::Command;

/// The first glibc that starts an executable with packed relocations.
const PACKED_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=.cargo");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|it| it == value);
    let is_released = is("PROFILE", "release");
    let is_gnu_linux = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    // Linkers that somebody has chosen may not know linker scripts.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_chosen =
        env::var_os("RUSTC_LINKER").is_some() || ["fuse-ld", "linker"].iter().any(|it| flags.contains(it));
    if !is_released || !is_gnu_linux || is_chosen {
        return;
    }
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo says it");
    println!("cargo:rustc-link-arg-bin=skyorg=-T{folder}/.cargo/released.ld");
    let is_native = env::var_os("HOST") == env::var_os("TARGET");
    if is_native && glibc().is_some_and(|version| version >= PACKED_SINCE) {
        println!("cargo:rustc-link-arg-bin=skyorg=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this system's glibc, if that can be found out.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
