//! The commands of the owners' guide.

use std::process::Command;

use kit::programs::require;

#[test]
fn the_commands_of_the_guide_do_what_it_says() {
    for (program, package) in [("gpg", "gnupg"), ("skopeo", "skopeo")] {
        require(program, package);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_interop"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaints}");
    assert!(said.contains("gpg signature is accepted"), "{said}");
}
