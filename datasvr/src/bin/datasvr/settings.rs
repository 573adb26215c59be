//! Settings of the process: defaults, then a TOML file, then `FKV_DATASVR_…` variables, then flags; later ones win.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use fkv_datasvr::{DataConfig, ExpansionLimits, FileInputs, Sources};
use fkv_store::{S3Options, StoreOptions};
use serde::{Deserialize, Serialize};

/// Serves FeatureKV's control API and works on load tasks.
///
/// Settings come from a TOML file, from variables such as FKV_DATASVR_LISTEN (or FKV_DATASVR_S3__ENDPOINT for a setting in
/// a section) and from flags; later ones win. Keys of S3 are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only.
///
/// Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.
#[derive(Debug, Parser, Serialize)]
#[command(name = "datasvr", version, verbatim_doc_comment)]
pub(crate) struct Flags {
    /// TOML file with settings
    #[arg(long, value_name = "FILE", env = "FKV_DATASVR_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Module whose tables are served [default: main]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    /// Name of this worker, unique in the module [default: made up]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// Address of the control API [default: 127.0.0.1:7300]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Address that others reach the control API at [default: the one it listens on]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    /// Allow listening beyond loopback although nothing is encrypted
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    insecure: bool,
    /// Metadata store: embedded, or etcd://host:port,host:port
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    /// Directory of the embedded metadata store
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_dir: Option<PathBuf>,
    /// Store that versions are written to: file:///dir or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    /// Directory below which tasks may read local files; may be repeated; `any` allows all
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_file_inputs: Vec<String>,
    /// Memory that the job at work may use, as 512MiB or 4GiB [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    build_memory: Option<String>,
    /// Memory of the rows of one slice; smaller input is loaded by one job [default: a sixth of the build memory]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    slice_size: Option<String>,
    /// Threads for decoding, sorting and building; 0 is one per core [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_threads: Option<usize>,
    /// What is logged, as info or fkv_datasvr=debug,info [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Where S3 is, for anything but AWS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct S3Settings {
    /// URL of the service.
    endpoint: Option<String>,
    /// Region.
    region: Option<String>,
    /// Whether the bucket stands in the host name.
    virtual_hosted_style: bool,
}

impl S3Settings {
    fn options(&self) -> StoreOptions {
        let s3 = S3Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            virtual_hosted_style: self.virtual_hosted_style,
            ..S3Options::default()
        };
        StoreOptions { s3, ..StoreOptions::default() }
    }
}

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) module: String,
    pub(crate) worker: String,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: String,
    pub(crate) insecure: bool,
    pub(crate) metadata: String,
    pub(crate) metadata_dir: PathBuf,
    pub(crate) store: String,
    pub(crate) allow_file_inputs: Vec<String>,
    pub(crate) build_memory: String,
    pub(crate) expanded_file_max: String,
    pub(crate) expansion_ratio_max: u64,
    pub(crate) slice_size: Option<String>,
    pub(crate) pack_size: String,
    pub(crate) lease_ttl_s: u64,
    pub(crate) cpu_threads: usize,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    /// The service of an `s3://` store, and of `s3://` inputs unless `inputs_s3` says otherwise.
    pub(crate) s3: S3Settings,
    pub(crate) inputs_s3: Option<S3Settings>,
}

impl Default for Settings {
    fn default() -> Self {
        let config = DataConfig::default();
        Self {
            module: config.module,
            worker: config.worker,
            listen: config.listen,
            advertise: config.advertise,
            insecure: false,
            metadata: String::new(),
            metadata_dir: PathBuf::from("."),
            store: String::new(),
            allow_file_inputs: Vec::new(),
            build_memory: "4GiB".to_owned(),
            expanded_file_max: "1TiB".to_owned(),
            expansion_ratio_max: ExpansionLimits::default().ratio_max,
            slice_size: None,
            pack_size: "256MiB".to_owned(),
            lease_ttl_s: config.lease_ttl.as_secs(),
            cpu_threads: 0,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            s3: S3Settings::default(),
            inputs_s3: None,
        }
    }
}

impl Settings {
    /// Reads all sources.
    pub(crate) fn read(flags: Flags) -> Result<Self, String> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = &flags.config {
            if !file.is_file() {
                return Err(format!("there is no configuration file {}", file.display()));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let environment = Env::prefixed("FKV_DATASVR_").ignore(&["config"]).split("__");
        let settings: Self = figment
            .merge(environment)
            .merge(Serialized::defaults(&flags))
            .extract()
            .map_err(|error| format!("the configuration is wrong: {error}"))?;
        if settings.metadata.is_empty() {
            return Err("no metadata store is given: use --metadata embedded or --metadata etcd://host:port".into());
        }
        if settings.store.is_empty() {
            return Err("no store is given: use --store file:///dir or --store s3://bucket/prefix".into());
        }
        settings.config()?;
        Ok(settings)
    }

    /// How the store for versions is opened.
    pub(crate) fn store_options(&self) -> StoreOptions {
        self.s3.options()
    }

    /// The server's configuration.
    pub(crate) fn config(&self) -> Result<DataConfig, String> {
        let files = match self.allow_file_inputs.as_slice() {
            [] => FileInputs::Refused,
            roots if roots.iter().any(|root| root == "any") => FileInputs::Any,
            roots => {
                if let Some(relative) = roots.iter().find(|root| !root.starts_with('/')) {
                    return Err(format!("allow_file_inputs: `{relative}` is not an absolute directory"));
                }
                FileInputs::Below(roots.to_vec())
            }
        };
        let options = self.inputs_s3.as_ref().unwrap_or(&self.s3).options();
        let expansion = ExpansionLimits {
            bytes_max: size("expanded_file_max", &self.expanded_file_max)?,
            ratio_max: self.expansion_ratio_max,
        };
        if expansion.ratio_max == 0 {
            return Err("expansion_ratio_max must be at least 1".to_owned());
        }
        Ok(DataConfig {
            module: self.module.clone(),
            worker: self.worker.clone(),
            listen: self.listen,
            advertise: self.advertise.clone(),
            insecure: self.insecure,
            sources: Sources { files, options, expansion },
            lease_ttl: Duration::from_secs(self.lease_ttl_s),
            build_memory: size("build_memory", &self.build_memory)?,
            slice_bytes: self.slice_size.as_deref().map(|text| size("slice_size", text)).transpose()?,
            pack_bytes: size("pack_size", &self.pack_size)?,
            ..DataConfig::default()
        })
    }
}

/// A size as `4GiB`, `512MiB`, `64KiB` or plain bytes.
fn size(name: &str, text: &str) -> Result<u64, String> {
    let bad = || format!("{name}: `{text}` is not a size: expected a number with KiB, MiB, GiB or TiB behind it");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1u64 << 40,
        _ => return Err(bad()),
    };
    digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Settings, String> {
        let flags = Flags::try_parse_from([&["datasvr"], arguments].concat()).map_err(|error| error.to_string())?;
        Settings::read(flags)
    }

    const NEEDED: [&str; 4] = ["--metadata", "embedded", "--store", "file:///srv/fkv"];

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("s", "4GiB"), Ok(4 << 30));
        assert_eq!(size("s", "512 MiB"), Ok(512 << 20));
        assert_eq!(size("s", "65536"), Ok(65536));
        for bad in ["", "GiB", "4GB", "-1", "99999999999TiB", "1.5GiB"] {
            assert!(size("build_memory", bad).expect_err(bad).starts_with("build_memory"), "{bad}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let toml = "module = \"rank\"\nlease_ttl_s = 5\nbuild_memory = \"1GiB\"\n[s3]\nendpoint = \"http://h:1\"\n";
        std::io::Write::write_all(&mut file.as_file(), toml.as_bytes()).expect("written");
        let path = file.path().to_str().expect("a plain path");
        let arguments = [&NEEDED[..], &["--config", path, "--module", "ads", "--allow-file-inputs", "/in"]].concat();
        let settings = read(&arguments).expect("settings");
        assert_eq!(settings.config().expect("a configuration").slice_bytes, None);
        let sliced = read(&[&arguments[..], &["--slice-size", "64MiB"]].concat()).expect("settings");
        assert_eq!(sliced.config().expect("a configuration").slice_bytes, Some(64 << 20));
        assert_eq!((settings.module.as_str(), settings.lease_ttl_s), ("ads", 5));
        let config = settings.config().expect("a configuration");
        assert_eq!((config.build_memory, config.sources.files), (1 << 30, FileInputs::Below(vec!["/in".into()])));
        assert_eq!(config.sources.options.s3.endpoint.as_deref(), Some("http://h:1"));
        assert_eq!(config.sources.expansion, ExpansionLimits::default());
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        assert!(read(&[]).expect_err("no metadata").contains("--metadata"));
        assert!(read(&["--metadata", "embedded"]).expect_err("no store").contains("--store"));
        let relative = [&NEEDED[..], &["--allow-file-inputs", "in"]].concat();
        assert!(read(&relative).expect_err("relative").contains("absolute"));
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::io::Write::write_all(&mut file.as_file(), b"lease = 5\n").expect("written");
        let arguments = [&NEEDED[..], &["--config", file.path().to_str().expect("a plain path")]].concat();
        assert!(read(&arguments).expect_err("unknown setting").contains("lease"));
    }
}
