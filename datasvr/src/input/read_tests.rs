//! Units read apart and together.

use std::sync::Arc;

use fkv_env::Env;
use fkv_formats::record::Key;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_meta::record::{Duplicates, InputFormat, LoadMode, LoadSpec, NullPolicy};
use fkv_store::StoreOptions;
use tempfile::TempDir;

use super::bad::BadRows;
use super::decode::Load;
use super::ends::Ends;
use super::error::InputError;
use super::open::{Layout, OpenFiles, open};
use super::read::{Loaded, Reader};
use super::source::{FileInputs, Sources};
use super::unit::Unit;
use crate::budget::Budget;
use crate::progress::Meter;

/// A file on disk, opened.
struct Opened {
    env: Env,
    load: Arc<Load>,
    files: OpenFiles,
    budget: Budget,
    _dir: TempDir,
}

async fn opened(format: InputFormat, content: &[u8], max_bad_rows: u64) -> Opened {
    let env = Env::real(2).expect("threads start");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("file");
    env.files.write_durably(&path, content).expect("written");
    let spec = LoadSpec {
        inputs: vec![format!("file://{}", path.display())],
        mode: LoadMode::Full,
        format,
        key_column: "id".into(),
        value_columns: vec!["v".into()],
        expiry_column: None,
        delete_column: None,
        nulls: NullPolicy::Skip,
        duplicates: Duplicates::Last,
        max_bad_rows,
        require_success: false,
    };
    let schema = Schema {
        kind: TableKind::Mem,
        key: KeyType::U64,
        value: ValueType::Bytes,
        storage: Storage::Native,
        f16_overflow: F16Overflow::Reject,
        ttl: false,
    };
    let sources = Sources { files: FileInputs::Any, ..Sources::default() };
    let output = fkv_store::open(&env, &format!("file://{}/out", dir.path().display()), &StoreOptions::default());
    let output = output.expect("a store");
    let listed = sources.resolve(&env, &spec.inputs, false, &output).await.expect("found");
    let files = sources.open(&env, &listed, &output).await.expect("opened");
    let load = Arc::new(Load { spec, schema, bad: BadRows::new(max_bad_rows) });
    let budget = Budget::new(64 << 20);
    let files = open(&files, &load, &budget).await.expect("opened");
    Opened { env, load, files, budget, _dir: dir }
}

impl Opened {
    fn reader(&self, units: &[Unit]) -> Reader {
        let meter = Arc::new(Meter::default());
        Reader::new(&self.env, &self.files, units, &self.load, &self.budget, &meter).expect("not too many rows")
    }

    /// Reads units one after the other, each with a reader of its own; their rows in order.
    async fn apart(&self, units: &[Unit]) -> Result<Vec<(u64, Vec<u8>)>, InputError> {
        let (mut all, mut ends) = (Vec::new(), Ends::default());
        for unit in units {
            let mut reader = self.reader(&[*unit]);
            all.extend(rows(&reader.fill(u64::MAX).await?));
            ends.extend(reader.ends());
        }
        ends.check(&self.load.spec, |_| "the file".into())?;
        Ok(all)
    }
}

/// The rows in the order of their places, which must be all of `0..n`.
fn rows(loaded: &Loaded) -> Vec<(u64, Vec<u8>)> {
    let mut rows = Vec::new();
    for run in &loaded.runs {
        for at in 0..run.len() {
            let record = run.record(at);
            let Key::U64(key) = record.key else { panic!("u64 keys") };
            rows.push((run.place(at), key, record.value.unwrap_or_default().to_vec()));
        }
    }
    rows.sort_unstable();
    assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0), "every row has a place of its own");
    rows.into_iter().map(|(_, key, value)| (key, value)).collect()
}

/// Rows of many lengths; `value` gives the field as it is written.
fn csv(count: u64, value: impl Fn(u64) -> String) -> Vec<u8> {
    let mut text = b"id,v\n".to_vec();
    for n in 0..count {
        text.extend(format!("{n},{}\n", value(n)).into_bytes());
    }
    text
}

fn filler(n: u64) -> String {
    "x".repeat(usize::try_from(n * 7 % 90).expect("small") + 1)
}

#[tokio::test]
async fn ranges_read_apart_give_each_row_once() {
    let jsonl: String = (0..3000).map(|n| format!("{{\"id\": {n}, \"v\": \"{}\"}}\n", filler(n))).collect();
    let quoted = csv(3000, |n| if n % 3 == 0 { format!("\"{},\"\"\"", filler(n)) } else { filler(n) });
    let files =
        [(InputFormat::Csv, csv(3000, filler)), (InputFormat::Csv, quoted), (InputFormat::Jsonl, jsonl.into_bytes())];
    for (format, content) in files {
        let opened = opened(format, &content, 0).await;
        let units = opened.files.units(u64::MAX).expect("units");
        assert_eq!(units.len(), 1);
        let whole = opened.apart(&units).await.expect("read");
        assert_eq!(whole.len(), 3000);
        for range in [50, 91, 1000, 4096, 100_000] {
            let units = opened.files.units(range).expect("units");
            assert_eq!(units.iter().map(|unit| unit.bytes).sum::<u64>(), opened_len(&opened));
            assert!(opened.apart(&units).await.expect("read") == whole, "{format:?} in ranges of {range}");
            let mut together = opened.reader(&units);
            assert!(rows(&together.fill(u64::MAX).await.expect("read")) == whole, "{format:?}, {range}");
        }
    }
}

fn opened_len(opened: &Opened) -> u64 {
    let Layout::Text(layout) = &opened.files.files[0].layout else { panic!("a text") };
    opened.files.files[0].file.meta.len - layout.begin.byte
}

#[tokio::test]
async fn a_cut_within_quotes_is_found_and_never_gives_other_rows() {
    let content = csv(2000, |n| if n % 5 == 0 { format!("\"{n},1\n{n},2\n\"",) } else { filler(n) });
    let opened = opened(InputFormat::Csv, &content, u64::MAX).await;
    let whole = opened.apart(&opened.files.units(u64::MAX).expect("units")).await.expect("read");
    let (mut found, mut right) = (0, 0);
    for range in (500..4000).step_by(97) {
        match opened.apart(&opened.files.units(range).expect("units")).await {
            Ok(rows) => {
                assert!(rows == whole, "ranges of {range}");
                right += 1;
            }
            Err(InputError::CutInQuotes { .. } | InputError::Truncated { .. }) => found += 1,
            Err(other) => panic!("ranges of {range}: {other}"),
        }
    }
    assert!(found > 0 && right + found == 37, "{found} found, {right} right");
}

#[tokio::test]
async fn a_bad_row_of_a_range_is_named_by_its_number_in_the_file() {
    let content = csv(3000, |n| match n {
        2500 => "1,2".to_owned(),
        n if n % 10 == 0 => format!("\"{n}\n\"\n"),
        n => filler(n),
    });
    let opened = opened(InputFormat::Csv, &content, 0).await;
    let units = opened.files.units(16 << 10).expect("units");
    let mut messages = Vec::new();
    for unit in &units {
        // The last range alone, or some of them: what comes before is counted, not read as rows.
        if let Err(error) = opened.reader(&[*unit]).fill(u64::MAX).await {
            messages.push(error.to_string());
        }
    }
    // 250 rows before it have two lines and an empty one behind them.
    let line = 2500 + 2 + 250 * 2;
    let named = format!("row 2500 (line {line}): the row has 3 fields, the header has 2");
    assert!(messages.iter().any(|message| message.contains(&named)), "{named}: {messages:?}");
}

#[tokio::test]
async fn what_is_read_so_far_is_always_a_beginning_of_the_input() {
    let content = csv(200_000, filler);
    let opened = opened(InputFormat::Csv, &content, 0).await;
    let units = opened.files.units(1 << 20).expect("units");
    let mut reader = opened.reader(&units);
    let (mut next, mut fills) = (0, 0);
    loop {
        let loaded = reader.fill(1 << 20).await.expect("read");
        if loaded.decoded.rows == 0 {
            break;
        }
        let keys: Vec<u64> = rows(&loaded).into_iter().map(|(key, _)| key).collect();
        assert!(keys.iter().copied().eq(next..next + keys.len() as u64), "fill {fills} follows the one before");
        next += keys.len() as u64;
        fills += 1;
    }
    assert_eq!(next, 200_000);
    assert!(fills > 3, "{fills}");
}
