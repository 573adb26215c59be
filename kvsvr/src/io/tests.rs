//! What every engine promises, asked of both.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Weak;

use futures::poll;

use super::*;

/// What tests may see of an engine.
pub(super) trait Observed: BlockIo {
    /// Its threads, as the kernel numbers them.
    fn threads(&self) -> Vec<u32>;
    /// Something that lives for as long as the engine or its threads do.
    fn alive(&self) -> Weak<dyn Wake>;
    /// Slots of the table of files that are taken.
    fn slots_in_use(&self) -> usize;
}

impl Counters {
    pub(super) fn note_thread(&self) {
        let link = std::fs::read_link("/proc/thread-self").expect("procfs is mounted");
        let number = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        self.threads.lock().expect("no thread panicked").push(number.expect("a thread's number"));
    }

    pub(super) fn threads(&self) -> Vec<u32> {
        self.threads.lock().expect("no thread panicked").clone()
    }
}

fn start(config: &IoConfig) -> Arc<dyn Observed> {
    match config.engine {
        IoEngine::Uring => Arc::new(uring::Uring::start(config).expect("these tests need io_uring: allow it")),
        IoEngine::Pread | IoEngine::Auto => Arc::new(pread::Pread::start(config).expect("threads start")),
    }
}

/// Every promise is a test of its own per engine.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod uring_engine {
            $(#[tokio::test] async fn $name() { super::$name(crate::config::IoEngine::Uring).await; })+
        }
        mod pread_engine {
            $(#[tokio::test] async fn $name() { super::$name(crate::config::IoEngine::Pread).await; })+
        }
    };
}

contract!(
    every_block_is_the_one_asked_for,
    long_reads_share_little_memory_in_order_of_arrival,
    a_read_that_cannot_be_is_refused_by_name_and_the_others_are_answered,
    a_file_that_became_shorter_is_an_error,
    a_file_unlinked_while_open_is_read_to_the_end_and_then_forgotten,
    more_files_than_slots_are_read_all_the_same,
    a_dropped_batch_returns_its_buffers_and_never_too_early,
    a_small_request_does_not_wait_for_a_huge_one,
    a_reader_that_takes_nothing_stops_nobody_else,
    an_engine_that_is_dropped_answers_every_read_and_ends,
    an_idle_engine_uses_no_cpu,
    a_wait_that_is_given_up_loses_nothing,
    reads_on_two_devices_do_not_mix,
);

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn block(seed: u64, number: u64) -> Vec<u8> {
    let mut random = Random(seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    (0..BLOCK_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// A file whose blocks are all different.
struct Sample {
    path: PathBuf,
    blocks: u64,
    seed: u64,
}

impl Sample {
    fn new(dir: &Path, name: &str, blocks: u64, seed: u64) -> Self {
        let path = dir.join(name);
        #[allow(clippy::disallowed_methods, reason = "the file under test")]
        let mut file = std::io::BufWriter::new(File::create(&path).expect("created"));
        for number in 0..blocks {
            file.write_all(&block(seed, number)).expect("written");
        }
        file.write_all(b"the rest of a block").expect("written");
        file.into_inner().expect("flushed").sync_all().expect("durable");
        Self { path, blocks, seed }
    }

    fn assert_is(&self, first: u64, bytes: &[u8]) {
        for (number, found) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            assert!(found == block(self.seed, number), "block {number} of {}", self.path.display());
        }
    }
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn config(engine: IoEngine) -> IoConfig {
    IoConfig { engine, rings: 2, pread_threads: 4, in_flight_max: 32, buffer_bytes: 1 << 20, ..IoConfig::default() }
}

fn one(file: &FileHandle, first: u64, blocks: u64) -> ReadOp {
    let len = u32::try_from(blocks * BLOCK_BYTES as u64).expect("short");
    ReadOp { file: file.clone(), offset: first * BLOCK_BYTES as u64, len }
}

/// Reads these ranges of blocks, compares them, and returns how many there were.
async fn check(io: &dyn Observed, file: &FileHandle, sample: &Sample, ranges: &[(u64, u64)]) -> usize {
    let mut batch = io.read(ranges.iter().map(|&(first, blocks)| one(file, first, blocks)).collect());
    let mut seen = vec![false; ranges.len()];
    let mut done = Vec::new();
    while batch.next(&mut done).await {
        for Done { index, outcome } in done.drain(..) {
            let (first, blocks) = ranges[index as usize];
            let bytes = outcome.expect("the file is there");
            assert_eq!(bytes.len() as u64, blocks * BLOCK_BYTES as u64);
            assert_eq!(bytes.as_ptr() as usize % BLOCK_BYTES, 0, "aligned");
            sample.assert_is(first, &bytes);
            assert!(!std::mem::replace(&mut seen[index as usize], true), "answered once");
        }
    }
    assert!(seen.iter().all(|seen| *seen));
    seen.len()
}

/// Waits for what another thread is about to do.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    #[allow(clippy::disallowed_methods, reason = "a bound on how long a broken engine is waited for")]
    let begin = std::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed().as_secs() < 60, "{what}");
        std::thread::yield_now();
    }
}

fn settled(io: &dyn Observed) {
    until("buffers return to the pool", || io.counts().buffers_held == 0);
    assert_eq!(io.counts().long_bytes_held, 0);
}

async fn every_block_is_the_one_asked_for(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 3000, 1);
    let io = start(&config(engine));
    let file = io.register(&sample.path).expect("registered");
    assert_eq!(file.len(), 3000 * BLOCK_BYTES as u64 + 19);
    let request = |seed: u64| {
        let (io, file, sample) = (&io, &file, &sample);
        async move {
            let mut random = Random(seed);
            let mut reads = 0;
            for _ in 0..12 {
                let ranges: Vec<_> = (0..random.below(400)).map(|_| (random.below(sample.blocks), 1)).collect();
                reads += check(io.as_ref(), file, sample, &ranges).await;
            }
            reads
        }
    };
    let reads: usize = futures::future::join_all((0..16).map(request)).await.into_iter().sum();
    settled(io.as_ref());
    let counts = io.counts();
    assert_eq!((counts.reads, counts.failures), (reads as u64, 0), "each is read once");
    assert_eq!(counts.read_bytes, (reads * BLOCK_BYTES) as u64);
}

async fn long_reads_share_little_memory_in_order_of_arrival(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 5000, 2);
    let io = start(&IoConfig { long_buffer_bytes_max: 1 << 20, ..config(engine) });
    let file = io.register(&sample.path).expect("registered");
    let request = |seed: u64| {
        let (io, file, sample) = (&io, &file, &sample);
        async move {
            let mut random = Random(seed);
            let mut ranges: Vec<_> = (0..100)
                .map(|_| {
                    let blocks = 1 + random.below(64);
                    (random.below(sample.blocks - blocks), blocks)
                })
                .collect();
            // Longer than all the memory for long reads: let through when it is alone.
            ranges.insert(50, (seed, 4500));
            check(io.as_ref(), file, sample, &ranges).await;
        }
    };
    futures::future::join_all((0..6).map(request)).await;
    settled(io.as_ref());
}

async fn a_read_that_cannot_be_is_refused_by_name_and_the_others_are_answered(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 10, 3);
    let io = start(&config(engine));
    let file = io.register(&sample.path).expect("registered");
    let refused = [
        (10 * 4096, 4096, ErrorKind::UnexpectedEof),
        (8 * 4096, 3 * 4096, ErrorKind::UnexpectedEof),
        (u64::MAX - 4095, 4096, ErrorKind::UnexpectedEof),
        (100, 4096, ErrorKind::InvalidInput),
        (0, 100, ErrorKind::InvalidInput),
        (0, 0, ErrorKind::InvalidInput),
        (0, u32::MAX - 4095, ErrorKind::InvalidInput),
    ];
    let mut reads: Vec<_> =
        refused.iter().map(|&(offset, len, _)| ReadOp { file: file.clone(), offset, len }).collect();
    reads.push(one(&file, 9, 1));
    let mut batch = io.read(reads);
    assert_eq!(batch.remaining(), refused.len() + 1);
    let (mut done, mut answers) = (Vec::new(), 0);
    while batch.next(&mut done).await {
        for Done { index, outcome } in done.drain(..) {
            answers += 1;
            let Some((offset, len, kind)) = refused.get(index as usize) else {
                sample.assert_is(9, &outcome.expect("it is there"));
                continue;
            };
            let error = outcome.expect_err("it cannot be");
            let text = error.to_string();
            assert_eq!(error.kind(), *kind, "{text}");
            assert!(text.contains(&format!("{len} bytes at offset {offset}")) && text.contains("sample"), "{text}");
        }
    }
    assert_eq!((answers, batch.remaining()), (refused.len() + 1, 0));
    assert!(!io.read(Vec::new()).next(&mut done).await, "a batch of nothing ends at once");
    let missing = io.register(&dir.path().join("missing")).expect_err("there is none");
    assert!(missing.kind() == ErrorKind::NotFound && missing.to_string().contains("missing"), "{missing}");
    assert_eq!(io.register(dir.path()).expect_err("a directory").kind(), ErrorKind::InvalidInput);
}

async fn a_file_that_became_shorter_is_an_error(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 10, 4);
    let io = start(&config(engine));
    let file = io.register(&sample.path).expect("registered");
    let shorter = std::fs::OpenOptions::new().write(true).open(&sample.path).expect("opened");
    shorter.set_len(5 * 4096 + 100).expect("truncated");
    let mut batch = io.read(vec![one(&file, 7, 1), one(&file, 3, 4), one(&file, 5, 1), one(&file, 1, 4)]);
    let (mut done, mut kinds) = (Vec::new(), [None; 4]);
    while batch.next(&mut done).await {
        for Done { index, outcome } in done.drain(..) {
            match outcome {
                Ok(bytes) => sample.assert_is(1, &bytes),
                Err(error) => {
                    assert!(error.to_string().contains("sample"), "{error}");
                    kinds[index as usize] = Some(error.kind());
                }
            }
        }
    }
    let ends = Some(ErrorKind::UnexpectedEof);
    assert_eq!(kinds, [ends, ends, ends, None]);
    settled(io.as_ref());
    assert_eq!((io.counts().reads, io.counts().failures), (1, 3));
}

#[allow(clippy::disallowed_methods, reason = "the file under test")]
async fn a_file_unlinked_while_open_is_read_to_the_end_and_then_forgotten(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 500, 5);
    let io = start(&config(engine));
    let file = io.register(&sample.path).expect("registered");
    let ranges: Vec<_> = (0..500).map(|number| (number, 1)).collect();
    check(io.as_ref(), &file, &sample, &ranges).await;
    std::fs::remove_file(&sample.path).expect("unlinked");
    check(io.as_ref(), &file, &sample, &ranges).await;
    let batch = io.read(ranges.iter().map(|&(first, blocks)| one(&file, first, blocks)).collect());
    // Its reads hold the file.
    drop(file);
    drop(batch);
    until("the rings forget the file", || io.slots_in_use() == 0);
    settled(io.as_ref());
}

async fn more_files_than_slots_are_read_all_the_same(engine: IoEngine) {
    let dir = temporary();
    let samples: Vec<_> = (0..6).map(|n| Sample::new(dir.path(), &format!("sample-{n}"), 20, 10 + n)).collect();
    let io = start(&IoConfig { files_max: 3, ..config(engine) });
    let mut random = Random(6);
    for _ in 0..20 {
        // Slots change hands: a ring that kept a former file would read its blocks.
        let mut chosen: Vec<&Sample> = samples.iter().collect();
        chosen.rotate_left(usize::try_from(random.below(6)).expect("small"));
        let open: Vec<_> = chosen.iter().map(|sample| io.register(&sample.path).expect("registered")).collect();
        for (file, sample) in open.iter().zip(&chosen) {
            let ranges: Vec<_> = (0..80).map(|_| (random.below(20), 1)).collect();
            check(io.as_ref(), file, sample, &ranges).await;
        }
    }
    until("the rings forget the files", || io.slots_in_use() == 0);
}

async fn a_dropped_batch_returns_its_buffers_and_never_too_early(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 2000, 7);
    let io = start(&IoConfig { long_buffer_bytes_max: 1 << 20, ..config(engine) });
    let file = io.register(&sample.path).expect("registered");
    let mut random = Random(7);
    let mut done = Vec::new();
    for round in 0..150 {
        let ranges: Vec<_> = (0..300)
            .map(|_| (random.below(1990), if random.below(8) == 0 { 1 + random.below(10) } else { 1 }))
            .collect();
        let mut batch = io.read(ranges.iter().map(|&(first, blocks)| one(&file, first, blocks)).collect());
        match round % 3 {
            0 => {}
            1 => assert!(poll!(std::pin::pin!(batch.next(&mut done))).is_pending() || !done.is_empty()),
            _ => assert!(batch.next(&mut done).await),
        }
        drop(batch);
        // What is held survives the batch, and nothing that was in flight is written over it.
        for Done { index, outcome } in &done {
            sample.assert_is(ranges[*index as usize].0, outcome.as_ref().expect("read"));
        }
        let kept = std::mem::take(&mut done);
        check(io.as_ref(), &file, &sample, &[(random.below(2000), 1), (random.below(1990), 5)]).await;
        for Done { index, outcome } in &kept {
            sample.assert_is(ranges[*index as usize].0, outcome.as_ref().expect("read"));
        }
    }
    settled(io.as_ref());
    let all: Vec<_> = (0..2000).map(|number| (number, 1)).collect();
    check(io.as_ref(), &file, &sample, &all).await;
}

async fn a_small_request_does_not_wait_for_a_huge_one(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 4000, 8);
    // 256 buffers for 65,536 reads.
    let io = start(&config(engine));
    let file = io.register(&sample.path).expect("registered");
    let mut random = Random(8);
    let huge: Vec<_> = (0..65_536).map(|_| one(&file, random.below(4000), 1)).collect();
    let mut batch = io.read(huge);
    let (mut done, mut answers) = (Vec::new(), 0);
    assert!(batch.next(&mut done).await);
    let mut small = Box::pin(async {
        for first in 0..20 {
            check(io.as_ref(), &file, &sample, &[(first, 1), (first + 100, 1), (first + 200, 1)]).await;
        }
    });
    let mut left_when_small_was_done = None;
    loop {
        answers += done.len();
        if left_when_small_was_done.is_none() && poll!(small.as_mut()).is_ready() {
            left_when_small_was_done = Some(batch.remaining());
        }
        if !batch.next(&mut done).await {
            break;
        }
    }
    assert_eq!(answers, 65_536);
    let left = left_when_small_was_done.expect("the small ones are done long before");
    assert!(left > 65_536 / 2, "after twenty small requests, one after the other, {left} of 65,536 reads are left");
}

async fn a_reader_that_takes_nothing_stops_nobody_else(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 1000, 9);
    let io = start(&IoConfig { long_buffer_bytes_max: 1 << 20, ..config(engine) });
    let file = io.register(&sample.path).expect("registered");
    let stuck = io.read((0..5000).map(|n| one(&file, n % 1000, 1)).collect());
    let stuck_long = io.read((0..500).map(|n| one(&file, n, 20)).collect());
    let ranges: Vec<_> = (0..1000).map(|n| (n % 900, if n % 5 == 0 { 30 } else { 1 })).collect();
    check(io.as_ref(), &file, &sample, &ranges).await;
    let held = io.counts().buffers_held;
    assert!(held > 0 && held < 256, "it holds its share: {held}");
    assert_eq!((stuck.remaining(), stuck_long.remaining()), (5000, 500));
    drop((stuck, stuck_long));
    settled(io.as_ref());
}

async fn an_engine_that_is_dropped_answers_every_read_and_ends(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 1000, 10);
    for round in 0..20 {
        let io = start(&config(engine));
        let alive = io.alive();
        let file = io.register(&sample.path).expect("registered");
        let mut batches: Vec<_> = (0..5)
            .map(|from| {
                io.read(
                    (0..2000)
                        .map(|n| {
                            one(&file, (n + from) % 1000, if n % 50 == 0 { 3 } else { 1 }.min(1000 - (n + from) % 1000))
                        })
                        .collect(),
                )
            })
            .collect();
        let mut done = Vec::new();
        if round % 2 == 0 {
            assert!(batches[0].next(&mut done).await);
            done.clear();
        }
        drop(io);
        for (from, batch) in (0..).zip(&mut batches) {
            let mut left = batch.remaining();
            while batch.next(&mut done).await {
                left -= done.len();
                for Done { index, outcome } in done.drain(..) {
                    match outcome {
                        Ok(bytes) => sample.assert_is((u64::from(index) + from) % 1000, &bytes),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}"),
                    }
                }
            }
            assert_eq!(left, 0, "all are answered");
        }
        drop(batches);
        drop(file);
        until("the threads end", || alive.upgrade().is_none());
    }
}

/// Nanoseconds a thread has run, and how often.
fn schedstat(thread: u32) -> (u64, u64) {
    #[allow(clippy::disallowed_methods, reason = "procfs")]
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).expect("the thread is there");
    let mut numbers = text.split_whitespace().map(|number| number.parse().expect("a number"));
    (numbers.next().expect("run time"), numbers.nth(1).expect("time slices"))
}

fn sleeps(thread: u32) -> bool {
    #[allow(clippy::disallowed_methods, reason = "procfs")]
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).expect("the thread is there");
    text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
}

async fn an_idle_engine_uses_no_cpu(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 200, 11);
    let io = start(&config(engine));
    let file = io.register(&sample.path).expect("registered");
    let ranges: Vec<_> = (0..200).map(|n| (n, 1)).collect();
    check(io.as_ref(), &file, &sample, &ranges).await;
    // Buffers with a reader, and reads that wait for them, are no reason to run either.
    let mut batch = io.read((0..5000).map(|n| one(&file, n % 200, 1)).collect());
    let mut done = Vec::new();
    assert!(batch.next(&mut done).await);
    let threads = io.threads();
    assert!(!threads.is_empty());
    let own = {
        let link = std::fs::read_link("/proc/thread-self").expect("procfs is mounted");
        link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).expect("a number")
    };
    until("all threads sleep, and stay asleep", || {
        let before: Vec<_> = threads.iter().map(|thread| schedstat(*thread)).collect();
        // A tenth of a second of this thread's work.
        let begin = schedstat(own).0;
        while schedstat(own).0 - begin < 100_000_000 {}
        let ran = |(thread, before): (&u32, &(u64, u64))| schedstat(*thread) != *before || !sleeps(*thread);
        !threads.iter().zip(&before).any(ran)
    });
    let mut answers = done.len();
    while batch.next(&mut done).await {
        answers += done.len();
    }
    assert_eq!(answers, 5000);
}

async fn a_wait_that_is_given_up_loses_nothing(engine: IoEngine) {
    let dir = temporary();
    let sample = Sample::new(dir.path(), "sample", 1000, 12);
    let io = start(&config(engine));
    let file = io.register(&sample.path).expect("registered");
    let mut batch = io.read((0..1000).map(|n| one(&file, n, 1)).collect());
    let mut seen = vec![false; 1000];
    let mut done = Vec::new();
    loop {
        // Begun and dropped, as a deadline or a select does it.
        let polled = poll!(std::pin::pin!(batch.next(&mut done)));
        if polled.is_pending() {
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => continue,
                more = batch.next(&mut done) => if !more { break },
            }
        }
        for Done { index, outcome } in done.drain(..) {
            sample.assert_is(u64::from(index), &outcome.expect("read"));
            assert!(!std::mem::replace(&mut seen[index as usize], true));
        }
        if batch.remaining() == 0 {
            break;
        }
    }
    assert!(seen.iter().all(|seen| *seen));
}

async fn reads_on_two_devices_do_not_mix(engine: IoEngine) {
    let dir = temporary();
    let other = tempfile::tempdir_in("/dev/shm").expect("memory behaves as another device");
    let samples = [Sample::new(dir.path(), "disk", 300, 13), Sample::new(other.path(), "memory", 300, 14)];
    let io = start(&config(engine));
    let files = samples.each_ref().map(|sample| io.register(&sample.path).expect("registered"));
    let mut random = Random(13);
    let reads: Vec<_> = (0..3000).map(|_| (usize::from(random.below(2) == 0), random.below(300))).collect();
    let mut batch = io.read(reads.iter().map(|&(which, first)| one(&files[which], first, 1)).collect());
    let mut done = Vec::new();
    while batch.next(&mut done).await {
        for Done { index, outcome } in &done {
            let (which, first) = reads[*index as usize];
            samples[which].assert_is(first, outcome.as_ref().expect("read"));
        }
    }
    assert_eq!(batch.remaining(), 0);
}

/// Containers refuse io_uring by a filter on system calls: so does this thread, for itself.
#[test]
fn where_io_uring_is_refused_threads_read_unless_it_is_insisted_on() {
    let thread = std::thread::Builder::new().spawn(|| {
        refuse_io_uring();
        let auto = open(&IoConfig { engine: IoEngine::Auto, ..config(IoEngine::Auto) }).expect("threads read");
        let refused = open(&config(IoEngine::Uring)).expect_err("it is refused");
        (auto.engine(), refused)
    });
    let (engine, refused) = thread.expect("a thread starts").join().expect("it does not panic");
    assert_eq!(engine, IoEngine::Pread);
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    assert_eq!(open(&config(IoEngine::Auto)).expect("io_uring reads").engine(), IoEngine::Uring);
}

/// Makes io_uring_setup fail with EPERM, for this thread and those it starts.
fn refuse_io_uring() {
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).expect("codes are small"),
        jt,
        jf,
        k,
    };
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("a small number");
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers; the kernel copies the program, which outlives the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let program: *const libc::sock_fprog = &raw const program;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, program), 0);
    }
}
