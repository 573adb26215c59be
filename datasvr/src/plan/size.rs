//! Sizing: the units of the input ─▶ jobs.
//!
//! ```text
//!   units   │ u0 │ u1 │ u2 │ u3 │ …     in frozen order, each with the memory its rows will take
//!   slices  │   slice 0    │ slice 1 …  stretches of about equal memory, as large as one is to be
//!   parts   │ 0 … 49 │ 50 … 99 │ …      ranges of about one pack of output
//! ```
//!
//! How input falls into slices, and parts into jobs, changes no byte of any part.

use fkv_formats::id::PART_COUNT;

use super::{Extent, JobKind, PlannedJob, Span, job_name};
use crate::build::rows::RowShape;
use crate::input::unit::Unit;

/// Rows of a slice, at most: places within it have 32 bits.
const SLICE_ROWS_MAX: u64 = 1 << 31;

/// How large jobs are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JobSizes {
    /// Memory of the rows of a slice.
    pub(crate) slice_bytes: u64,
    /// Output of a part job.
    pub(crate) part_job_bytes: u64,
}

/// The least memory in which a slice is made; planning with less would only make more objects.
const SLICE_BYTES_MIN: u64 = 64 << 10;

/// The shortest range that text is cut into.
const TEXT_RANGE_BYTES_MIN: u64 = 4 << 10;

impl JobSizes {
    /// The sizes for a worker that may use `memory` bytes for a job, unless slices are to be of `slice_bytes`.
    pub(crate) fn of(memory: u64, slice_bytes: Option<u64>, pack_bytes: u64) -> Self {
        // Less than may be held, since memory is estimated here.
        let fitting = crate::slice::rows_bytes_max(memory) / 9 * 8;
        let slice_bytes = slice_bytes.map_or(fitting, |asked| asked.min(fitting)).max(SLICE_BYTES_MIN);
        Self { slice_bytes, part_job_bytes: pack_bytes.max(1) }
    }
}

impl JobSizes {
    /// Bytes of the ranges that text is cut into for slices: small, so that slices become about as large as they are to be.
    pub(crate) fn text_range_bytes(self) -> u64 {
        (self.slice_bytes / 16).max(TEXT_RANGE_BYTES_MIN)
    }
}

/// A unit with the memory that its rows will take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sized {
    /// The unit; its file is a place in the frozen list.
    pub(crate) unit: Unit,
    /// Bytes.
    pub(crate) memory: u64,
}

/// The jobs of a plan made after `retries` retries.
pub(crate) fn jobs(units: &[Sized], shape: RowShape, sizes: JobSizes, retries: u32) -> Vec<PlannedJob> {
    let rows: u64 = units.iter().filter_map(|sized| sized.unit.rows).fold(0, u64::saturating_add);
    let bytes = units.iter().map(|sized| sized.unit.bytes).fold(0, u64::saturating_add);
    let memory = units.iter().map(|sized| sized.memory).fold(0, u64::saturating_add);
    if memory <= sizes.slice_bytes && rows < SLICE_ROWS_MAX {
        return vec![PlannedJob { name: job_name("build".into(), retries), kind: JobKind::Build, bytes, rows }];
    }
    // Slices of one size, not full ones and a small rest.
    let count = u128::from(memory.div_ceil(sizes.slice_bytes).max(1));
    let (mut jobs, mut open, mut before) = (Vec::new(), Slice::default(), 0u64);
    for sized in units {
        let rows = open.rows.saturating_add(sized.unit.rows.unwrap_or(0));
        let is_too_large = open.memory.saturating_add(sized.memory) > sizes.slice_bytes || rows > SLICE_ROWS_MAX;
        // A unit is of the slice in which more than half of it lies.
        let middle = u128::from(before.saturating_add(sized.memory / 2));
        let is_beyond = middle * count > u128::from(memory) * (jobs.len() as u128 + 1);
        before = before.saturating_add(sized.memory);
        if !open.input.is_empty() && (is_too_large || is_beyond) {
            jobs.push(std::mem::take(&mut open).job(jobs.len(), retries));
        }
        open.add(sized);
    }
    jobs.push(open.job(jobs.len(), retries));
    // A record has its hash where a row has it, and no place.
    let output = memory.saturating_sub(rows.saturating_mul(shape.row_bytes_min() - shape.record_bytes_min()));
    let count = output.div_ceil(sizes.part_job_bytes).clamp(1, u64::from(PART_COUNT));
    let count = u16::try_from(count).unwrap_or(PART_COUNT);
    for number in 0..count {
        let at = |number: u16| (u32::from(number) * u32::from(PART_COUNT) / u32::from(count)) as u16;
        let (first, end) = (at(number), at(number + 1));
        let share = |all: u64| (u128::from(all) * u128::from(end - first) / u128::from(PART_COUNT)) as u64;
        let name = job_name(format!("part-{first:04}"), retries);
        jobs.push(PlannedJob { name, kind: JobKind::Part { first, end }, bytes: share(output), rows: share(rows) });
    }
    jobs
}

/// A slice in the making.
#[derive(Debug, Default)]
struct Slice {
    input: Vec<Span>,
    memory: u64,
    bytes: u64,
    rows: u64,
}

impl Slice {
    fn add(&mut self, sized: &Sized) {
        let (file, extent) = (as_u32(sized.unit.file), Extent::of(&sized.unit.kind));
        match self.input.last_mut() {
            Some(span) if span.file == file => span.extent = span.extent.to(extent),
            _ => self.input.push(Span { file, extent }),
        }
        self.memory = self.memory.saturating_add(sized.memory);
        self.bytes = self.bytes.saturating_add(sized.unit.bytes);
        self.rows = self.rows.saturating_add(sized.unit.rows.unwrap_or(0));
    }

    fn job(self, number: usize, retries: u32) -> PlannedJob {
        let name = job_name(format!("slice-{number:05}"), retries);
        let kind = JobKind::Slice { number: as_u32(number), input: self.input };
        PlannedJob { name, kind, bytes: self.bytes, rows: self.rows }
    }
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).expect("files, row groups and slices are fewer than 2^32")
}

#[cfg(test)]
mod tests {
    use fkv_formats::schema::KeyType;

    use super::*;
    use crate::input::unit::UnitKind;

    const SHAPE: RowShape = RowShape { key: KeyType::U64, width: Some(4), ttl: false, deletes: false };

    /// Files of row groups with so many rows each.
    fn units(files: &[&[u64]]) -> Vec<Sized> {
        let mut units = Vec::new();
        for (file, groups) in files.iter().enumerate() {
            for (number, rows) in groups.iter().enumerate() {
                let unit = Unit { file, kind: UnitKind::RowGroup { number }, bytes: rows * 12, rows: Some(*rows) };
                units.push(Sized { unit, memory: rows * SHAPE.row_bytes_min() });
            }
        }
        units
    }

    fn sizes(slice_bytes: u64) -> JobSizes {
        JobSizes { slice_bytes, part_job_bytes: 1_000_000 }
    }

    #[test]
    fn small_input_is_one_job() {
        let jobs = jobs(&units(&[&[1000, 1000], &[500]]), SHAPE, sizes(2500 * 16), 0);
        assert_eq!(jobs.len(), 1);
        assert_eq!((jobs[0].name.as_str(), &jobs[0].kind, jobs[0].rows), ("build", &JobKind::Build, 2500));
        assert_eq!(super::jobs(&[], SHAPE, sizes(1), 2)[0].name, "build-r2");
    }

    #[test]
    fn every_unit_is_read_once_and_every_part_built_once() {
        let groups: Vec<Vec<u64>> =
            (0..40).map(|file| (0..=file % 7).map(|n| 1000 + 37 * n + file).collect()).collect();
        let files: Vec<&[u64]> = groups.iter().map(Vec::as_slice).collect();
        let units = units(&files);
        for slice_bytes in [1, 20_000, 100_000, 600_000, 1_000_000] {
            let jobs = jobs(&units, SHAPE, sizes(slice_bytes), 1);
            let mut read = Vec::new();
            let (mut next_part, mut number, mut rows) = (0, 0, 0);
            for job in &jobs {
                match &job.kind {
                    JobKind::Build => panic!("too large for one job"),
                    JobKind::Slice { number: found, input } => {
                        assert_eq!((*found, next_part), (number, 0), "slices come first, in order");
                        assert!(job.name.ends_with("-r1"), "{}", job.name);
                        number += 1;
                        rows += job.rows;
                        let files = job.files().expect("some");
                        assert_eq!(files.len(), input.len());
                        for (file, span) in files.zip(input) {
                            assert_eq!(file, span.file as usize);
                            let Extent::Groups { first, end } = span.extent else { panic!("row groups") };
                            read.extend((first..end).map(|group| (span.file, group)));
                        }
                    }
                    JobKind::Part { first, end } => {
                        assert!(*first == next_part && end > first);
                        next_part = *end;
                    }
                }
            }
            let all = units.iter().map(|sized| {
                let UnitKind::RowGroup { number } = sized.unit.kind else { panic!("row groups") };
                (sized.unit.file as u32, number as u32)
            });
            assert_eq!(read, all.collect::<Vec<_>>(), "{slice_bytes}");
            assert_eq!((next_part, rows), (2400, units.iter().filter_map(|sized| sized.unit.rows).sum()));
            let names: std::collections::BTreeSet<_> = jobs.iter().map(|job| &job.name).collect();
            assert_eq!(names.len(), jobs.len());
        }
    }

    #[test]
    fn text_is_cut_at_bytes_and_compressed_text_is_not_cut() {
        let unit = |file, kind, bytes| Sized { unit: Unit { file, kind, bytes, rows: None }, memory: bytes };
        let ranges = (0..10).map(|n| unit(0, UnitKind::Range { start: 7 + n * 100, end: 107 + n * 100 }, 100));
        let units: Vec<Sized> = ranges.chain([unit(1, UnitKind::Whole, 1000), unit(2, UnitKind::Whole, 50)]).collect();
        let jobs = jobs(&units, SHAPE, sizes(500), 0);
        let inputs: Vec<&[Span]> = jobs
            .iter()
            .filter_map(|job| match &job.kind {
                JobKind::Slice { input, .. } => Some(input.as_slice()),
                _ => None,
            })
            .collect();
        let spans: Vec<Span> = inputs.concat();
        let mut next = 7;
        for span in &spans {
            match span.extent {
                Extent::Bytes { start, end } => {
                    assert!(span.file == 0 && start == next && end > start, "{spans:?}");
                    next = end;
                }
                Extent::Whole => assert!(span.file > 0 && next == 1007, "{spans:?}"),
                Extent::Groups { .. } => panic!("there is no Parquet"),
            }
        }
        assert!(inputs.len() >= 4 && next == 1007, "{spans:?}");
        assert_eq!(spans.iter().filter(|span| span.extent == Extent::Whole).count(), 2);
    }

    #[test]
    fn slices_are_of_about_one_size() {
        let files: Vec<Vec<u64>> = (0..100).map(|_| vec![1000; 100]).collect();
        let files: Vec<&[u64]> = files.iter().map(Vec::as_slice).collect();
        let slice_bytes = 19_000_000;
        let jobs = jobs(&units(&files), SHAPE, sizes(slice_bytes), 0);
        let slices: Vec<u64> =
            jobs.iter().filter(|job| matches!(job.kind, JobKind::Slice { .. })).map(|job| job.rows * 16).collect();
        let (least, most) = (slices.iter().min().expect("some"), slices.iter().max().expect("some"));
        assert!(slices.len() == 9 && *most <= slice_bytes && most - least <= 9 * 16_000, "{slices:?}");
        // 10^7 records of 12 bytes in jobs of a megabyte.
        assert_eq!(jobs.len() - slices.len(), 120);
    }

    #[test]
    fn there_are_never_more_part_jobs_than_parts() {
        let units = units(&[&[1 << 30, 1 << 30, 1 << 30]]);
        let jobs = jobs(&units, SHAPE, JobSizes { slice_bytes: 1 << 30, part_job_bytes: 1 }, 0);
        let parts = jobs.iter().filter(|job| matches!(job.kind, JobKind::Part { .. })).count();
        assert_eq!(parts, 2400);
        assert!(jobs.iter().all(|job| matches!(job.kind, JobKind::Part { .. }) || job.rows <= SLICE_ROWS_MAX));
    }
}
