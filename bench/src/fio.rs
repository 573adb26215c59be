//! fio, which measures what the device gives.

use std::path::PathBuf;
use std::process::Command;

/// What fio measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) bytes_per_s: f64,
    pub(crate) reads_per_s: f64,
    /// CPU seconds per read, in user and kernel mode.
    pub(crate) cpu_s_per_read: f64,
}

/// Reads `files` around the page cache, as `arguments` say.
pub(crate) fn run(files: &[PathBuf], arguments: &[&str]) -> Result<Measured, String> {
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let output = Command::new("fio")
        .args(["--name=read", "--direct=1", "--readonly", "--output-format=json"])
        .arg(format!("--filename={}", names.join(":")))
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot run fio, which the suite needs: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.find('{').and_then(|at| serde_json::from_str::<serde_json::Value>(&text[at..]).ok());
    let measured = json.and_then(|json| {
        let job = &json["jobs"][0];
        let (read, runtime_ms) = (&job["read"], job["read"]["runtime"].as_f64()?);
        let cpu_share = (job["usr_cpu"].as_f64()? + job["sys_cpu"].as_f64()?) / 100.0;
        Some(Measured {
            bytes_per_s: read["bw_bytes"].as_f64()?,
            reads_per_s: read["iops"].as_f64()?,
            cpu_s_per_read: cpu_share * runtime_ms / 1000.0 / read["total_ios"].as_f64()?,
        })
    });
    measured
        .filter(|measured| measured.bytes_per_s > 0.0)
        .ok_or_else(|| format!("fio failed: {}", String::from_utf8_lossy(&output.stderr)))
}
