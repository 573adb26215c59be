//! The stand-alone binary: exit codes, settings from file, environment and flags, signals.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn kvsvr() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvsvr"));
    command.env_clear();
    command
}

fn refused(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("it runs");
    assert_eq!(status.code(), Some(2), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stderr).into_owned()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a configuration file for another process")]
fn wrong_usage_is_named_and_exits_with_2() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let flags = |command: &mut Command| {
        command.args(["--module", "m", "--server", "s", "--store", "file:///tmp"]);
        command.env("FKV_KVSVR_METADATA", "etcd://127.0.0.1:1");
        command.arg("--data-dir").arg(dir.path());
    };
    assert!(refused(kvsvr().arg("--no-such-flag")).contains("--no-such-flag"));
    assert!(refused(&mut kvsvr()).contains("--metadata"));
    let mut command = kvsvr();
    flags(&mut command);
    assert!(refused(command.args(["--listen", "0.0.0.0:0"])).contains("insecure"));
    let mut command = kvsvr();
    flags(&mut command);
    assert!(refused(command.env("FKV_KVSVR_LIMITS__KEYS_MAX", "0")).contains("limits.keys_max"));
    let mut command = kvsvr();
    flags(&mut command);
    assert!(refused(command.args(["--metadata", "mysql://x"])).contains("etcd://"));
    let file = dir.path().join("kvsvr.toml");
    std::fs::write(&file, "memory_bytes_maximum = 5\n").expect("written");
    let mut command = kvsvr();
    flags(&mut command);
    assert!(refused(command.arg("--config").arg(&file)).contains("memory_bytes_maximum"), "a misspelt setting");
    let mut command = kvsvr();
    flags(&mut command);
    assert!(refused(command.arg("--config").arg(dir.path().join("none.toml"))).contains("none.toml"));
}

/// With metadata down, too, it starts, says where it listens, and stops with 0 when asked.
#[test]
#[allow(clippy::disallowed_methods, reason = "a configuration file for another process")]
fn it_starts_without_metadata_and_stops_at_sigterm() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("kvsvr.toml");
    let text = format!(
        "module = \"m\"\nserver = \"from-file\"\nlisten = \"127.0.0.1:0\"\nmetadata = \"etcd://127.0.0.1:1\"\n\
         store = \"file://{0}\"\ndata_dir = \"{0}/data\"\nlog = \"json\"\n[limits]\nkeys_max = 10\n",
        dir.path().display()
    );
    std::fs::write(&file, text).expect("written");
    let mut child = kvsvr()
        .arg("--config")
        .arg(&file)
        .env("FKV_KVSVR_SERVER", "from-environment")
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let listening = lines
        .find_map(|line| line.ok().filter(|line| line.contains("kvsvr is listening")))
        .expect("it says where it listens");
    assert!(listening.contains("from-environment") && listening.starts_with('{'), "{listening}");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("signalled");
    assert!(killed.success());
    // Its log must be read to the end, or it would block on a full pipe.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{rest:?}");
}
