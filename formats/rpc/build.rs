//! Compiles the two protocol files in pure Rust: no `protoc` is needed to build.

use std::path::PathBuf;

use prost::Message as _;

#[allow(clippy::disallowed_methods, reason = "a build script writes its output for the compiler; no program runs it")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let described = protox::compile(["kv.proto", "control.proto"], ["proto"])?;

    // What reflection serves needs no comments; they would only make every reflection answer larger.
    let mut served = described.clone();
    for file in &mut served.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), served.encode_to_vec())?;

    tonic_prost_build::configure().bytes(".").compile_fds(described)?;
    Ok(())
}
