//! Finds libenclave.so with pkg-config. At run time a program finds the library in the loader's search path.
//! If it is elsewhere, the program's own build.rs sets an rpath: it prints
//! `cargo:rustc-link-arg=-Wl,-rpath,FOLDER` with the folder from DEP_ENCLAVE_LIBDIR.

use std::{env, process::Command};

fn main() {
    for name in [
        "PKG_CONFIG",
        "PKG_CONFIG_PATH",
        "PKG_CONFIG_LIBDIR",
        "PKG_CONFIG_SYSROOT_DIR",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    if env::var_os("DOCS_RS").is_some() {
        return; // docs.rs links nothing
    }
    let tool = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let answer = Command::new(&tool)
        .args(["--libs", "enclave"])
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", tool.to_string_lossy()));
    assert!(
        answer.status.success(),
        "install the library (the package libenclave-dev, or Assets/install-enclave), and set \
         PKG_CONFIG_PATH where its prefix is not a usual one: {}",
        String::from_utf8_lossy(&answer.stderr)
    );
    for word in String::from_utf8_lossy(&answer.stdout).split_whitespace() {
        if let Some(folder) = word.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
            println!("cargo:libdir={folder}");
        } else if let Some(library) = word.strip_prefix("-l") {
            println!("cargo:rustc-link-lib=dylib={library}");
        } else if word.starts_with("-Wl,-rpath,") {
            println!("cargo:rustc-link-arg={word}"); // only for this crate's own tests
        }
    }
}
