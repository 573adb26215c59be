//! Suite `image`: loading the image of a memory table by the server's own loader, against the disk's sequential read and
//! a copy in memory.
//!
//! ```text
//!   records ─▶ packs + form in a file:// store ── load ─▶ image + local packs
//!   rounds × { fio read, O_DIRECT │ cold load of local packs │ copy │ warm load of local packs │ cold load of the store }
//! ```
//!
//! Cold: the files' pages are dropped from the page cache first. The copy writes memory that is mapped anew on huge pages,
//! by as many threads as there are cores, as a load has to; one into memory that is there already is reported beside it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fkv_env::Env;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_kvsvr::KvConfig;
use fkv_kvsvr::measure::{LoadedImage, Loads};

use crate::fio;
use crate::huge::HugeBytes;
use crate::machine::{process_cpu, resident_bytes};
use crate::report::{Op, Report, median};
use crate::stored::{self, ORIGIN};

const ROUNDS: usize = 5;
/// Bytes of key and value of a record.
const RAW_BYTES: f64 = 12.0;

/// Runs the suite over 100 M records, or 64 M with `quick`, or `keys`; files go below `dir`.
///
/// # Errors
/// A file could not be written or read, a load failed, or fio is not installed.
pub fn run(env: &Env, quick: bool, keys: Option<usize>, dir: &Path, report: &mut Report) -> Result<(), String> {
    let count = keys.unwrap_or(if quick { 64_000_000 } else { 100_000_000 });
    let dir = dir.join(format!("fkv-bench-{}", std::process::id()));
    let (store_dir, images_dir) = (dir.join("store"), dir.join("images"));
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    env.files.create_dir_all(&store_dir).map_err(failed)?;
    env.files.create_dir_all(&images_dir).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start threads: {error}"))?;
    let outcome = runtime.block_on(measure(env, count, &store_dir, &images_dir, report));
    env.files.remove_dir_all(&dir).map_err(failed)?;
    outcome
}

async fn measure(
    env: &Env,
    count: usize,
    store_dir: &Path,
    images_dir: &Path,
    report: &mut Report,
) -> Result<(), String> {
    let url = format!("file://{}", store_dir.display());
    let store = fkv_store::open(env, &url, &fkv_store::StoreOptions::default()).map_err(|error| error.to_string())?;
    let put = |key: u64, value: &mut Vec<u8>| value.extend_from_slice(&((key >> 40) as f32).to_le_bytes());
    let record = stored::write(&store, &schema(), Profile::CURRENT, count, put).await?.record;
    let objects = files_below(env, store_dir)?;
    let loads = Loads::new(env, store, images_dir.to_owned(), ORIGIN.uid, record, &KvConfig::default())
        .map_err(|error| error.to_string())?;

    let before = resident_bytes(env.files.as_ref());
    let first = loads.from_store().await?;
    let resident = resident_bytes(env.files.as_ref()).saturating_sub(before);
    let packs: Vec<PathBuf> = first.pack_names().iter().map(|name| images_dir.join(name)).collect();
    let bytes: u64 = packs.iter().map(|path| env.files.stat(path).map_or(0, |stat| stat.len)).sum();
    let mut source = HugeBytes::new(usize::try_from(bytes).map_err(|_| "too large")?).map_err(|e| e.to_string())?;
    source.bytes_mut().fill(1);
    let mut target = HugeBytes::new(source.bytes().len()).map_err(|error| error.to_string())?;
    target.bytes_mut().fill(2);

    let mut rates: [Vec<f64>; 7] = Default::default();
    let mut cpu: [Vec<f64>; 2] = Default::default();
    let gib = bytes as f64 / f64::from(1 << 30);
    for _ in 0..ROUNDS {
        drop_pages(&packs)?;
        rates[0].push(read_all(&packs, bytes)?);
        drop_pages(&packs)?;
        let (rate, busy) = timed(env, bytes, async { loads.from_files(&first).await }).await?;
        rates[1].push(rate);
        cpu[0].push(busy / gib);
        rates[2].push(copy_anew(env, &source)?);
        rates[3].push(copy(env, &source, &mut target));
        // The files' pages are in the cache from the load before.
        let (rate, busy) = timed(env, bytes, async { loads.from_files(&first).await }).await?;
        rates[4].push(rate);
        cpu[1].push(busy / gib);
        drop_pages(&objects)?;
        rates[5].push(timed(env, bytes, async { loads.from_store().await }).await?.0);
        rates[6].push(timed(env, bytes, async { loads.from_store().await }).await?.0);
    }
    let [fio_rate, cold, copy_anew, copy, warm, store_cold, store_warm] = rates.map(|rates| median(&rates));
    let [cpu_cold, cpu_warm] = cpu.map(|cpu| median(&cpu));
    report.raw("records", count);
    report.raw("rounds", ROUNDS);
    report.raw("bytes", bytes);
    for (name, rate) in [
        ("fio_sequential_read", fio_rate),
        ("cold_load", cold),
        ("copy_to_new_memory", copy_anew),
        ("copy", copy),
        ("warm_load", warm),
        ("store_cold_load", store_cold),
        ("store_warm_load", store_warm),
    ] {
        report.raw(&format!("{name}_bytes_per_s"), rate);
    }
    report.raw("cold_load_cpu_s_per_gib", cpu_cold);
    report.raw("warm_load_cpu_s_per_gib", cpu_warm);
    report.raw("resident_bytes", resident);
    report.raw("image_memory_bytes", first.memory_bytes());
    report.ratio("cold_load_over_fio", cold / fio_rate, Op::AtLeast, 0.9);
    report.ratio("warm_load_over_copy", warm / copy_anew, Op::AtLeast, 0.7);
    report.ratio("memory_over_raw", first.memory_bytes() as f64 / (count as f64 * RAW_BYTES), Op::AtMost, 1.0);
    Ok(())
}

/// Bytes per second of a load, and the CPU seconds that it took. The image is dropped afterwards.
async fn timed(
    env: &Env,
    bytes: u64,
    load: impl Future<Output = Result<LoadedImage, String>>,
) -> Result<(f64, f64), String> {
    let (start, cpu) = (env.clock.monotonic(), process_cpu());
    let image = load.await?;
    let took = env.clock.monotonic().saturating_sub(start);
    let busy = process_cpu().saturating_sub(cpu);
    drop(image);
    // Its memory goes in pieces of its own time, which is not the next measurement's.
    env.clock.sleep(Duration::from_millis(500)).await;
    Ok((bytes as f64 / took.as_secs_f64(), busy.as_secs_f64()))
}

fn schema() -> Schema {
    Schema {
        kind: TableKind::Mem,
        key: KeyType::U64,
        value: ValueType::F32(1),
        storage: Storage::Native,
        f16_overflow: F16Overflow::Reject,
        ttl: false,
    }
}

fn files_below(env: &Env, dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in env.files.list(dir).map_err(|error| error.to_string())? {
        let path = dir.join(&entry.name);
        if entry.is_dir { files.extend(files_below(env, &path)?) } else { files.push(path) }
    }
    Ok(files)
}

/// Drops the pages of files from the page cache.
#[allow(clippy::disallowed_methods, reason = "the page cache of real files is what is measured")]
fn drop_pages(files: &[PathBuf]) -> Result<(), String> {
    for path in files {
        let drop = || -> std::io::Result<()> {
            let file = File::open(path)?;
            file.sync_all()?;
            Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
        };
        drop().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Bytes per second at which fio reads all of `files`, around the page cache.
fn read_all(files: &[PathBuf], bytes: u64) -> Result<f64, String> {
    let size = format!("--size={bytes}");
    let measured = fio::run(files, &["--rw=read", "--bs=1M", "--iodepth=16", "--ioengine=libaio", &size])?;
    Ok(measured.bytes_per_s)
}

fn copy_anew(env: &Env, source: &HugeBytes) -> Result<f64, String> {
    let start = env.clock.monotonic();
    let mut target = HugeBytes::new(source.bytes().len()).map_err(|error| error.to_string())?;
    copy_all(source.bytes(), target.bytes_mut());
    Ok(source.bytes().len() as f64 / env.clock.monotonic().saturating_sub(start).as_secs_f64())
}

fn copy(env: &Env, source: &HugeBytes, target: &mut HugeBytes) -> f64 {
    let start = env.clock.monotonic();
    copy_all(source.bytes(), target.bytes_mut());
    source.bytes().len() as f64 / env.clock.monotonic().saturating_sub(start).as_secs_f64()
}

/// Copies with a thread per core.
fn copy_all(source: &[u8], target: &mut [u8]) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = source.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (source, target) in source.chunks(share).zip(target.chunks_mut(share)) {
            scope.spawn(|| target.copy_from_slice(source));
        }
    });
}
