//! The grammar of the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use fkv_formats::schema::{F16Overflow, KeyType, Storage, TableKind, ValueType};

use crate::cmd::cluster::SectArgument;

/// Said at the end of the help of every verb.
const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 wrong usage. Results go to standard output, everything else \
                          to standard error.";

/// The port of the control API unless told otherwise.
pub(crate) const CONTROL_PORT: u16 = 7300;

/// FeatureKV: batch-loaded, versioned, read-only key-value tables for features and models.
#[derive(Debug, Parser)]
#[command(name = "fkv", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags of every verb.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Common options")]
    pub(crate) output: OutputFormat,
    /// The control API: host:port of any DataSvr, or of `fkv up`.
    #[arg(
        long,
        global = true,
        env = "FKV_ENDPOINT",
        default_value = "127.0.0.1:7300",
        value_name = "HOST:PORT",
        value_parser = parse_endpoint,
        help_heading = "Common options"
    )]
    pub(crate) endpoint: String,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For programs; the shapes are described in tools/README.md.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a whole cluster on loopback in this process, for another terminal to use.
    Up(UpArgs),
    /// Show it all in half a minute: load, read, load again, flip, roll back; every answer checked.
    Demo(DemoArgs),
    /// Create, list, show and delete tables.
    #[command(subcommand)]
    Table(TableVerb),
    /// Load files into a table as its next version.
    SubmitLoadTask(SubmitArgs),
    /// List, show, wait for and cancel load tasks.
    #[command(subcommand)]
    Task(TaskVerb),
    /// List and show the versions of a table.
    #[command(subcommand)]
    Version(VersionVerb),
    /// Read one key. An absent or expired key exits 1.
    Get(GetArgs),
    /// Read many keys of one version.
    BatchGet(BatchGetArgs),
    /// Show an older version of a table instead of its newest; loads are refused until a release.
    Rollback(RollbackArgs),
    /// End a rollback: the content shown becomes the newest version, what it replaced is never used again.
    Release(ReleaseArgs),
    /// Declare and show the servers of a module.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// Show what a file in one of FeatureKV's formats holds.
    Inspect(InspectArgs),
}

/// `fkv up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Directory of metadata, store and server data. Started again on the same directory, the cluster has its
    /// tables and versions back.
    #[arg(long, value_name = "DIR", default_value = "fkv-data")]
    pub(crate) dir: PathBuf,
    /// Number of sects (full replicas), 1 to 26.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=26))]
    pub(crate) sects: u8,
    /// Number of roles per sect: each serves 2400/N parts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) roles: u16,
    /// Port of the control API; servers use the ports from 10 above. 0: the system chooses all of them.
    #[arg(long, value_name = "PORT", default_value_t = CONTROL_PORT)]
    pub(crate) port: u16,
    /// Where metadata lives: `embedded` (in DIR/meta) or `etcd://host:port,host:port`.
    #[arg(long, value_name = "URL", default_value = "embedded")]
    pub(crate) metadata: String,
    /// Where slices, packs and manifests live: `file:///dir` or `s3://bucket/prefix` [default: DIR/store].
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Name of the module, the prefix of its metadata.
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub(crate) module: String,
}

/// `fkv demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Users in the narrow table (one feature each); the wide table (16 features) has an eighth of them [default:
    /// 5000000, with records on SSD 500000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
    pub(crate) rows: Option<u64>,
    /// Kind of the tables: mem, idx or blk.
    #[arg(long, default_value_t = TableKind::Mem)]
    pub(crate) kind: TableKind,
    /// Use this new or empty directory and keep it, instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `fkv table …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TableVerb {
    /// Create a table.
    Create(TableCreateArgs),
    /// List all tables.
    List,
    /// Show one table.
    Show {
        /// The table.
        table: String,
    },
    /// Delete a table with all its versions.
    Delete(TableDeleteArgs),
}

/// `fkv table create`.
#[derive(Debug, Args)]
pub(crate) struct TableCreateArgs {
    /// Name of the table: letters, digits, `.`, `_`, `-`.
    pub(crate) table: String,
    /// Type of the keys: u64 or bytes (text is its UTF-8).
    #[arg(long, visible_alias = "key", value_name = "TYPE")]
    pub(crate) key_type: KeyType,
    /// Type of the values.
    #[arg(
        long,
        visible_alias = "value",
        value_name = "TYPE",
        help = "Type of the values: bytes, i64, f32, f32[D], f16 or f16[D]"
    )]
    pub(crate) value_type: ValueType,
    /// Where records live: mem, idx or blk.
    #[arg(long, default_value_t = TableKind::Mem)]
    pub(crate) kind: TableKind,
    /// Store f32 values as they are (native) or rounded to f16.
    #[arg(long, default_value_t = Storage::Native)]
    pub(crate) storage: Storage,
    /// With `--storage f16`, what becomes of values too large for it: reject (a bad row) or saturate.
    #[arg(long, value_name = "POLICY", default_value_t = F16Overflow::Reject)]
    pub(crate) f16_overflow: F16Overflow,
    /// Records carry an expiry time.
    #[arg(long)]
    pub(crate) ttl: bool,
    /// Versions kept in the store beside those in use.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) retain_versions: u32,
    /// What servers keep of the version before the shown one: ram (a rollback to it is a flip) or disk.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) retain_old: RetainOld,
    /// For kind blk, what spares reads for absent keys: none, or fuse8 in memory, 9 bits per key [default for blk: fuse8]
    #[arg(long, value_enum)]
    pub(crate) filter: Option<Filter>,
}

/// How absent keys of a blk table are told without reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Filter {
    /// The block where the key would be is read.
    None,
    /// A binary fuse filter of 8-bit fingerprints.
    Fuse8,
}

/// What servers keep of a replaced image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RetainOld {
    /// The image stays in memory.
    #[default]
    Ram,
    /// Only its local files stay.
    Disk,
}

/// `fkv table delete`.
#[derive(Debug, Args)]
pub(crate) struct TableDeleteArgs {
    /// The table.
    pub(crate) table: String,
    /// Delete it without asking back.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Delete it only if its epoch is still this one.
    #[arg(long, value_name = "EPOCH")]
    pub(crate) expected_epoch: Option<u64>,
    /// Check only; nothing is deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `fkv submit-load-task`.
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The table to load into.
    #[arg(long)]
    pub(crate) table: String,
    /// A file, directory or glob: a local path, or a URL such as s3://bucket/path. May be given several times; all
    /// files together are read in the order of their URLs.
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) input: Vec<String>,
    /// Full (replace everything) or incremental (upsert and delete on the newest version).
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mode: LoadMode,
    /// Format of the files.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: InputFormat,
    /// The key column.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) key: String,
    /// The value column; give one per dimension for a vector in separate columns.
    #[arg(long, value_name = "COLUMN", required = true)]
    pub(crate) value: Vec<String>,
    /// The column of expiry times, in Unix seconds.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) expiry: Option<String>,
    /// The column of booleans that says which rows delete their key.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) delete: Option<String>,
    /// What a null value means: no record (skip) or a zero in its place.
    #[arg(long = "null", value_enum, default_value_t)]
    pub(crate) nulls: NullPolicy,
    /// Which of several rows with one key wins, in the order of the files and of their rows; error fails the task.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) duplicates: Duplicates,
    /// How many bad rows the task tolerates.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_bad_rows: u64,
    /// Refuse the input unless a _SUCCESS file says that each of its folders is complete.
    #[arg(long)]
    pub(crate) require_success: bool,
    /// Makes submitting idempotent: the same id with the same request gives the same task [default: a new one].
    #[arg(long, value_name = "ID")]
    pub(crate) submit_id: Option<String>,
    /// Wait for the task's end; exit 1 unless its version is shown.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Full load or increment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadMode {
    #[default]
    Full,
    Incremental,
}

/// Format of input files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    #[default]
    Parquet,
    Csv,
    Tsv,
    Jsonl,
}

/// What a null value means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum NullPolicy {
    #[default]
    Skip,
    Zero,
}

/// Which of several rows with one key wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Duplicates {
    #[default]
    Last,
    First,
    Error,
}

/// `fkv task …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskVerb {
    /// List tasks, newest first.
    List {
        /// Only those of this table.
        table: Option<String>,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show one task.
    Show(TaskArgs),
    /// Wait for a task's end; exit 1 unless its version is shown.
    Wait(TaskArgs),
    /// Cancel a task that has not committed its version yet.
    Cancel(TaskArgs),
}

/// Names a task.
#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// The table.
    pub(crate) table: String,
    /// The task's number.
    pub(crate) task: u64,
}

/// `fkv version …`.
#[derive(Debug, Subcommand)]
pub(crate) enum VersionVerb {
    /// List a table's versions, newest first.
    List {
        /// The table.
        table: String,
    },
    /// Show one version.
    Show {
        /// The table.
        table: String,
        /// The version's number.
        version: u64,
    },
}

/// `fkv get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The table.
    pub(crate) table: String,
    /// The key: a number for u64 tables; text, or bytes as 0x… or hex:…, for bytes tables. `text:` takes what
    /// follows literally.
    #[arg(allow_negative_numbers = true)]
    pub(crate) key: String,
}

/// `fkv batch-get`.
#[derive(Debug, Args)]
pub(crate) struct BatchGetArgs {
    /// The table.
    pub(crate) table: String,
    /// The keys, as for `get`; `-` reads them from standard input, one per line.
    #[arg(value_name = "KEY", required_unless_present = "keys_file", allow_negative_numbers = true)]
    pub(crate) keys: Vec<String>,
    /// Read keys from this file, one per line.
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    pub(crate) keys_file: Option<PathBuf>,
}

/// `fkv rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The table.
    pub(crate) table: String,
    /// The version to show [default: the one shown before the present one].
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: Option<u64>,
    /// Refuse if the table's epoch is not this one any more.
    #[arg(long, value_name = "EPOCH")]
    pub(crate) expected_epoch: Option<u64>,
    /// Check only, and tell whether it would be a flip or a load.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until the version is shown everywhere.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `fkv release`.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The table.
    pub(crate) table: String,
    /// Refuse if the table's epoch is not this one any more.
    #[arg(long, value_name = "EPOCH")]
    pub(crate) expected_epoch: Option<u64>,
    /// Check only.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until the new version is shown everywhere.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `fkv cluster …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Declare the sects of a new module.
    Init {
        /// A sect with its server per role, in order of roles: NAME=SERVER@HOST:PORT,SERVER@HOST:PORT,…
        #[arg(long, value_name = "SECT", required = true)]
        sect: Vec<SectArgument>,
    },
    /// Show sects, slots and workers.
    Show,
}

/// `fkv inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The file.
    pub(crate) file: PathBuf,
    /// Print only whether all checksums are right. They are compared in any case; damage exits 1.
    #[arg(long)]
    pub(crate) verify: bool,
    /// How many records to show.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) records: usize,
}

/// The whole grammar, with the exit codes in every help text.
pub(crate) fn command() -> clap::Command {
    fn with_exit_codes(command: clap::Command) -> clap::Command {
        command.after_help(EXIT_CODES).mut_subcommands(with_exit_codes)
    }
    with_exit_codes(Cli::command())
}

/// Parses the command line.
///
/// # Errors
/// A mistake, or a wish for help or the version.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Accepts `host:port`, also written as a URL.
fn parse_endpoint(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let valid = authority
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok());
    if valid { Ok(authority.to_owned()) } else { Err(format!("expected host:port, such as 127.0.0.1:{CONTROL_PORT}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Cli, clap::Error> {
        parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_grammar_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_help_text_states_the_exit_codes() {
        fn check(command: &mut clap::Command, path: &str) {
            let help = command.render_help().to_string();
            assert!(help.contains("0 ok, 1 failed, 2 wrong usage"), "{path}: {help}");
            let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
            // `help` itself is clap's and has no text of ours.
            for name in names.into_iter().filter(|name| name != "help") {
                let below = command.find_subcommand_mut(&name).expect("just listed");
                check(below, &format!("{path} {name}"));
            }
        }
        let mut command = command();
        command.build();
        check(&mut command, "fkv");
    }

    #[test]
    fn common_flags_stand_before_or_after_the_verb() {
        for words in
            ["fkv --output json --endpoint h:1 table list", "fkv table list --output json --endpoint http://h:1/"]
        {
            let cli = parse_words(words).expect(words);
            assert_eq!((cli.global.output, cli.global.endpoint.as_str()), (OutputFormat::Json, "h:1"), "{words}");
        }
    }

    #[test]
    fn a_submit_takes_repeated_inputs_and_values_in_order() {
        let cli = parse_words("fkv submit-load-task --table t --input b --input a --key k --value x --value y")
            .expect("valid");
        let Verb::SubmitLoadTask(args) = cli.verb else { panic!("another verb: {:?}", cli.verb) };
        assert_eq!((args.input, args.value), (vec!["b".to_owned(), "a".into()], vec!["x".to_owned(), "y".into()]));
        assert_eq!((args.mode, args.duplicates, args.nulls), (LoadMode::Full, Duplicates::Last, NullPolicy::Skip));
    }

    #[test]
    fn mistakes_are_usage_errors_that_list_what_is_expected() {
        for (words, expected) in [
            ("fkv table create t --key-type text --value-type f32", "expected `u64` `bytes`"),
            ("fkv table create t --key-type u64 --value-type f64", "f32[d]"),
            ("fkv table create t --key-type u64 --value-type f32 --kind ssd", "expected `mem` `idx` `blk`"),
            (
                "fkv submit-load-task --table t --input a --key k --value v --mode delta",
                "possible values: full, incremental",
            ),
            ("fkv submit-load-task --table t --input a --key k", "--value"),
            ("fkv batch-get t", "<KEY>"),
            ("fkv table list --endpoint nowhere", "expected host:port"),
            ("fkv cluster init --sect a", "NAME=SERVER@HOST:PORT"),
            ("fkv up --sects 0", "1..=26"),
            ("fkv rollback t --to 0", "0 is not in"),
            ("fkv tables", "unrecognized subcommand"),
        ] {
            let error = parse_words(words).expect_err(words);
            assert!(error.use_stderr(), "{words}");
            assert!(error.to_string().contains(expected), "{words}: {error}");
        }
    }

    #[test]
    fn a_negative_number_is_a_key_not_a_flag() {
        let cli = parse_words("fkv batch-get t -5 7").expect("valid");
        let Verb::BatchGet(args) = cli.verb else { panic!("another verb: {:?}", cli.verb) };
        assert_eq!(args.keys, ["-5", "7"]);
    }
}
