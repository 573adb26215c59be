//! `fkv inspect`: what a stored file holds.

use std::io::{self, Write};

use fkv_formats::inspect::{
    BlockCounts, Inspection, PackInspection, PartInspection, SampleKey, SampleRecord, SliceInspection, inspect,
};
use fkv_formats::manifest::{Form, Layer};
use fkv_formats::pack::PackPart;
use fkv_formats::schema::Schema;
use fkv_formats::table::mem::Probe;
use fkv_formats::table::{PartLayout, Profile};
use serde::Serialize;
use serde_json::Value as Json;

use crate::cli::InspectArgs;
use crate::context::Context;
use crate::failure::{Context as _, Failure, Outcome};
use crate::key_text::{OwnedKey, key_text};
use crate::output::{Columns, bytes, count, moment, write_block};
use crate::progress::while_doing;
use crate::value_text::{value_json, value_text};

/// So many parts and objects are listed as text; JSON lists all.
const LISTED: usize = 10;

#[derive(Serialize)]
struct SchemaView {
    kind: String,
    key_type: String,
    value_type: String,
    storage: String,
    ttl: bool,
}

#[derive(Serialize)]
struct RecordView {
    key: String,
    hash: String,
    value: Json,
    #[serde(skip)]
    value_text: String,
    expiry_unix_s: Option<u32>,
}

#[derive(Serialize)]
struct PartView {
    part: u16,
    offset: u64,
    bytes: u64,
    records: u64,
    chunks: usize,
    load: f64,
    digest: String,
    damage: Option<String>,
}

/// A pack.
#[derive(Serialize)]
struct PackView {
    format: &'static str,
    sound: bool,
    bytes: u64,
    table_uid: u64,
    origin_version: u64,
    schema: SchemaView,
    format_version: u16,
    load_permille: u16,
    codec: u8,
    filter: &'static str,
    shape: Option<String>,
    slots_per_line: Option<u8>,
    records: u64,
    part_bytes: u64,
    /// What a server holds in memory.
    resident_bytes: u64,
    /// Bytes of filters, part of what is resident.
    filter_bytes: u64,
    resident_bytes_per_record: f64,
    load: f64,
    /// How many records lie, or have their entry, 0, 1, 2 … lines from home.
    displacement: Vec<u64>,
    blocks: Option<BlocksView>,
    parts: Vec<PartView>,
    first_records: Vec<RecordView>,
}

/// The blocks of a pack.
#[derive(Serialize)]
struct BlocksView {
    blocks: u64,
    bytes: u64,
    runs: u64,
    runs_of_several_blocks: u64,
    record_bytes: u64,
    /// The share of the blocks' bytes that records take.
    fill: f64,
    /// Records that a lookup finds only in the second run it reads, or a later one.
    second_reads: u64,
}

#[derive(Serialize)]
struct ObjectView {
    path: String,
    bytes: u64,
}

#[derive(Serialize)]
struct LayerView {
    objects: Vec<ObjectView>,
    parts: usize,
    records: u64,
    bytes: u64,
    origin_versions: Vec<u64>,
}

/// A form.
#[derive(Serialize)]
struct FormView {
    format: &'static str,
    sound: bool,
    bytes: u64,
    table_uid: u64,
    content_id: String,
    schema: SchemaView,
    format_version: u16,
    load_permille: u16,
    codec: u8,
    as_of_unix_s: u32,
    layers: Vec<LayerView>,
}

/// A slice.
#[derive(Serialize)]
struct SliceView {
    format: &'static str,
    sound: bool,
    bytes: u64,
    table_uid: u64,
    task: u64,
    plan: u32,
    number: u32,
    piece: u32,
    schema: SchemaView,
    keeps_places: bool,
    records: u64,
    tombstones: u64,
    damaged_parts: Vec<u16>,
    first_records: Vec<RecordView>,
}

pub(super) async fn run(context: &Context, args: InspectArgs) -> Outcome {
    let files = context.env.files.clone();
    let (path, name) = (args.file.clone(), args.file.display().to_string());
    let work = context.env.blocking(move || files.read(&path).map(|read| (read.len(), inspect(&read))));
    let inspection = while_doing(&context.env.clock, "reading and verifying", work)
        .await
        .map_err(|error| Failure::failed(format!("cannot inspect {name}: {error}")))?;
    let (len, inspection) = inspection.context(|| format!("read {name}"))?;
    let inspection = inspection.map_err(|error| {
        Failure::coded("data_loss", format!("{name}: {error}"))
            .hint("packs, forms and slices can be inspected; in a store they are called `pack-…`, `form` and `slice-…`")
    })?;
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    match inspection {
        Inspection::Pack(pack) => {
            let view = PackView::new(&pack, len, args.records);
            context.print(&view, |out| if args.verify { write_verdict(out, &view) } else { view.write(out) })?;
            match pack.parts.iter().find_map(|part| part.damage.as_ref().map(|damage| (part.part, damage))) {
                None => match pack.gap_damage {
                    None => Ok(()),
                    Some(damage) => Err(Failure::coded("data_loss", format!("{name}: {damage}"))),
                },
                Some((part, damage)) => {
                    let damaged = pack.parts.iter().filter(|part| part.damage.is_some()).count();
                    Err(Failure::coded(
                        "data_loss",
                        format!(
                            "{name}: {damaged} parts of {} are damaged, the first is part {part}: {damage}",
                            pack.parts.len()
                        ),
                    ))
                }
            }
        }
        Inspection::Form(form) => {
            let view = FormView::new(&form, len);
            context.print(&view, |out| {
                if args.verify { writeln!(out, "form, {}: the checksum is right", bytes(len)) } else { view.write(out) }
            })
        }
        Inspection::Slice(slice) => {
            let view = SliceView::new(&slice, len, args.records);
            context.print(&view, |out| view.write(out))?;
            match slice.damage.first() {
                None => Ok(()),
                Some((part, damage)) => Err(Failure::coded(
                    "data_loss",
                    format!("{name}: {} parts are damaged, the first is part {part}: {damage}", slice.damage.len()),
                )),
            }
        }
    }
}

fn write_verdict(out: &mut dyn Write, view: &PackView) -> io::Result<()> {
    let chunks: usize = view.parts.iter().map(|part| part.chunks).sum();
    let damaged = view.parts.iter().filter(|part| part.damage.is_some()).count();
    match damaged {
        0 => writeln!(
            out,
            "pack, {}: all {} checksums of {} parts are right{}",
            bytes(view.bytes),
            count(chunks as u64),
            view.parts.len(),
            view.blocks.as_ref().map_or(String::new(), |blocks| format!(", and those of {} runs", count(blocks.runs)))
        ),
        damaged => writeln!(out, "pack, {}: {damaged} of {} parts are damaged", bytes(view.bytes), view.parts.len()),
    }
}

impl From<&Schema> for SchemaView {
    fn from(schema: &Schema) -> Self {
        Self {
            kind: schema.kind.to_string(),
            key_type: schema.key.to_string(),
            value_type: schema.value.to_string(),
            storage: schema.storage.to_string(),
            ttl: schema.ttl,
        }
    }
}

impl SchemaView {
    fn text(&self) -> String {
        let stored = if self.storage == "native" { String::new() } else { format!(" stored as {}", self.storage) };
        let ttl = if self.ttl { ", with expiry" } else { "" };
        format!("{} table, {} -> {}{stored}{ttl}", self.kind, self.key_type, self.value_type)
    }
}

impl From<&SampleRecord> for RecordView {
    fn from(record: &SampleRecord) -> Self {
        let key = match &record.key {
            SampleKey::U64(number) => OwnedKey::U64(*number),
            SampleKey::Bytes(bytes) => OwnedKey::Bytes(bytes.clone()),
        };
        Self {
            key: key_text(&key),
            hash: format!("{:016x}", record.h),
            value: value_json(&record.value),
            value_text: value_text(&record.value),
            expiry_unix_s: (record.expiry != 0).then_some(record.expiry),
        }
    }
}

impl PackView {
    fn new(pack: &PackInspection, bytes: u64, records: usize) -> Self {
        let directory = &pack.directory;
        let (shape, slots_per_line) = shape_of(pack);
        let slots: f64 = pack.parts.iter().filter_map(slots).sum();
        let resident_bytes = directory.parts.iter().map(|part| part.len() - part.block_len()).sum();
        let filter_bytes = pack.parts.iter().filter_map(|part| part.layout.as_ref()).map(filter_len).sum();
        let part_view = |(entry, seen): (&PackPart, &PartInspection)| PartView {
            part: entry.part.0,
            offset: entry.offset,
            bytes: entry.len(),
            records: entry.records(),
            chunks: entry.chunks.len(),
            load: seen.load,
            digest: entry.digest.to_string(),
            damage: seen.damage.as_ref().map(ToString::to_string),
        };
        #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
        let load = if slots > 0.0 { pack.records() as f64 / slots } else { 0.0 };
        Self {
            format: "pack",
            sound: pack.is_sound(),
            bytes,
            table_uid: directory.origin.uid.0,
            origin_version: directory.origin.version.0,
            schema: (&directory.schema).into(),
            format_version: directory.profile.format,
            load_permille: directory.profile.load_permille,
            codec: directory.profile.codec,
            filter: filter_name(directory.profile.filter),
            shape,
            slots_per_line,
            records: pack.records(),
            part_bytes: pack.bytes(),
            resident_bytes,
            filter_bytes,
            resident_bytes_per_record: per(resident_bytes, pack.records()),
            load,
            displacement: pack.displacement(),
            blocks: BlocksView::new(pack),
            parts: directory.parts.iter().zip(&pack.parts).map(part_view).collect(),
            first_records: pack.parts.iter().flat_map(|part| &part.first).take(records).map(Into::into).collect(),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let chunks: usize = self.parts.iter().map(|part| part.chunks).sum();
        write_block(
            out,
            &[
                ("pack", format!("{}, format version {}", bytes(self.bytes), self.format_version)),
                ("table", format!("uid {}, origin version {}", self.table_uid, self.origin_version)),
                ("schema", self.schema.text()),
                (
                    "shape",
                    match (&self.shape, self.slots_per_line) {
                        (Some(shape), Some(slots)) => {
                            format!("{shape}, {slots} slots a line, built for a load of {} ‰", self.load_permille)
                        }
                        (Some(shape), None) => shape.clone(),
                        _ => String::new(),
                    },
                ),
                ("filter", self.filter_text()),
                (
                    "parts",
                    format!("{} with {} chunks, {}", self.parts.len(), count(chunks as u64), bytes(self.part_bytes)),
                ),
                ("records", count(self.records)),
                (
                    "resident",
                    format!("{}, {:.2} bytes a record", bytes(self.resident_bytes), self.resident_bytes_per_record),
                ),
                ("load", self.slots_per_line.map_or(String::new(), |_| format!("{:.3} records a slot", self.load))),
                ("blocks", self.blocks.as_ref().map_or(String::new(), BlocksView::text)),
            ],
        )?;
        self.write_displacement(out)?;
        writeln!(out)?;
        let mut columns = Columns::new(&[">part", ">offset", ">bytes", ">records", ">load", "digest", "damage"]);
        let damaged = self.parts.iter().filter(|part| part.damage.is_some());
        let sound = self.parts.iter().filter(|part| part.damage.is_none());
        for part in damaged.chain(sound).take(LISTED) {
            columns.row([
                part.part.to_string(),
                part.offset.to_string(),
                part.bytes.to_string(),
                part.records.to_string(),
                if self.slots_per_line.is_some() { format!("{:.3}", part.load) } else { String::new() },
                part.digest.chars().take(12).collect(),
                part.damage.clone().unwrap_or_default(),
            ]);
        }
        columns.write(out)?;
        if self.parts.len() > LISTED {
            writeln!(out, "… and {} more parts", self.parts.len() - LISTED)?;
        }
        if self.first_records.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut columns = Columns::new(&["hash", "key", "value", "expires"]);
        for record in &self.first_records {
            columns.row([
                record.hash.clone(),
                record.key.clone(),
                record.value_text.chars().take(80).collect(),
                record.expiry_unix_s.map_or_else(|| "never".to_owned(), |at| moment(u64::from(at) * 1000)),
            ]);
        }
        columns.write(out)
    }

    fn filter_text(&self) -> String {
        match (self.filter, self.filter_bytes) {
            _ if self.schema.kind != "blk" => String::new(),
            (_, 0) => self.filter.to_owned(),
            (name, len) => format!("{name}, {}, {:.2} bytes a record", bytes(len), per(len, self.records)),
        }
    }

    /// Writes how far records lie from home: what share of lookups needs how many lines.
    #[allow(clippy::cast_precision_loss, reason = "percentages for people")]
    fn write_displacement(&self, out: &mut dyn Write) -> io::Result<()> {
        let total: u64 = self.displacement.iter().sum();
        for (lines, &records) in self.displacement.iter().enumerate() {
            let share = records as f64 / total.max(1) as f64;
            let bar = "#".repeat((share * 40.0).round() as usize);
            writeln!(out, "  {lines:>2} lines from home  {:>6.2} %  {bar}", share * 100.0)?;
        }
        Ok(())
    }
}

impl BlocksView {
    /// What the blocks of all parts hold; `None` of a memory table.
    fn new(pack: &PackInspection) -> Option<Self> {
        let sum = |of: fn(&BlockCounts) -> u64| pack.parts.iter().map(|part| of(&part.blocks)).sum::<u64>();
        let bytes: u64 = pack.directory.parts.iter().map(PackPart::block_len).sum();
        let record_bytes = sum(|counts| counts.record_bytes);
        (bytes > 0).then(|| Self {
            blocks: sum(|counts| counts.blocks),
            bytes,
            runs: sum(|counts| counts.runs),
            runs_of_several_blocks: sum(|counts| counts.long_runs),
            record_bytes,
            fill: per(record_bytes, bytes),
            second_reads: sum(|counts| counts.second_reads),
        })
    }

    fn text(&self) -> String {
        let second = match self.second_reads {
            0 => String::new(),
            reads => format!(", {} records found by a second read", count(reads)),
        };
        format!(
            "{} in {} runs, {} of several blocks; {:.1} % of {} are records{second}",
            count(self.blocks),
            count(self.runs),
            count(self.runs_of_several_blocks),
            self.fill * 100.0,
            bytes(self.bytes)
        )
    }
}

/// How the parts of a pack are laid out, and the slots of an index line; the first part that can be read stands for all.
fn shape_of(pack: &PackInspection) -> (Option<String>, Option<u8>) {
    match pack.parts.iter().find_map(|part| part.layout) {
        Some(PartLayout::Mem(layout)) => (Some(format!("{:?}", layout.shape()).to_lowercase()), Some(layout.slots())),
        Some(PartLayout::Idx(layout)) => {
            let sorted = if layout.probe() == Probe::Sorted { ", sorted" } else { "" };
            (Some(format!("an entry per record{sorted}")), Some(layout.slots()))
        }
        Some(PartLayout::Blk(_)) => (Some("an entry per block".to_owned()), None),
        None => (None, None),
    }
}

const fn filter_len(layout: &PartLayout) -> u64 {
    match layout {
        PartLayout::Mem(_) | PartLayout::Idx(_) => 0,
        PartLayout::Blk(layout) => layout.filter_len(),
    }
}

const fn filter_name(filter: u8) -> &'static str {
    if filter == Profile::FILTER_FUSE8 { "binary fuse, 8 bits" } else { "none" }
}

#[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
fn per(sum: u64, count: u64) -> f64 {
    sum as f64 / count.max(1) as f64
}

/// Slots of a part, from its load.
fn slots(part: &PartInspection) -> Option<f64> {
    match part.layout? {
        PartLayout::Mem(layout) => Some(f64::from(layout.lines()) * f64::from(layout.slots())),
        PartLayout::Idx(layout) => Some(f64::from(layout.lines()) * f64::from(layout.slots())),
        PartLayout::Blk(_) => None,
    }
}

impl FormView {
    fn new(form: &Form, bytes: u64) -> Self {
        Self {
            format: "form",
            sound: true,
            bytes,
            table_uid: form.uid.0,
            content_id: form.content.to_string(),
            schema: (&form.schema).into(),
            format_version: form.profile.format,
            load_permille: form.profile.load_permille,
            codec: form.profile.codec,
            as_of_unix_s: form.as_of,
            layers: form.layers.iter().map(Into::into).collect(),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        write_block(
            out,
            &[
                ("form", format!("{}, format version {}", bytes(self.bytes), self.format_version)),
                ("table", format!("uid {}", self.table_uid)),
                ("content", self.content_id.clone()),
                ("schema", self.schema.text()),
                ("as of", moment(u64::from(self.as_of_unix_s) * 1000)),
                ("layers", self.layers.len().to_string()),
            ],
        )?;
        for (index, layer) in self.layers.iter().enumerate() {
            let origins: Vec<String> = layer.origin_versions.iter().map(u64::to_string).collect();
            writeln!(
                out,
                "layer {index}: {} records in {} parts, {}, origin version {}",
                count(layer.records),
                layer.parts,
                bytes(layer.bytes),
                origins.join(", ")
            )?;
            for object in layer.objects.iter().take(LISTED) {
                writeln!(out, "  {} ({})", object.path, bytes(object.bytes))?;
            }
            if layer.objects.len() > LISTED {
                writeln!(out, "  … and {} more objects", layer.objects.len() - LISTED)?;
            }
        }
        Ok(())
    }
}

impl SliceView {
    fn new(slice: &SliceInspection, bytes: u64, records: usize) -> Self {
        let (id, spec) = (slice.directory.id(), slice.directory.spec());
        Self {
            format: "slice",
            sound: slice.damage.is_empty(),
            bytes,
            table_uid: id.uid.0,
            task: id.task.0,
            plan: id.plan,
            number: id.number,
            piece: id.piece,
            schema: (&spec.schema).into(),
            keeps_places: spec.places,
            records: slice.directory.records(),
            tombstones: slice.tombstones,
            damaged_parts: slice.damage.iter().map(|(part, _)| part.0).collect(),
            first_records: slice.first.iter().take(records).map(Into::into).collect(),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let places = if self.keeps_places { ", with places" } else { "" };
        write_block(
            out,
            &[
                ("slice", format!("{}, number {}, piece {}", bytes(self.bytes), self.number, self.piece)),
                ("table", format!("uid {}, task {}, plan {}", self.table_uid, self.task, self.plan)),
                ("schema", format!("{}{places}", self.schema.text())),
                ("records", format!("{}, of which {} tombstones", count(self.records), count(self.tombstones))),
                ("damaged", format!("{} parts", self.damaged_parts.len())),
            ],
        )?;
        for record in &self.first_records {
            writeln!(out, "{}  {}  {}", record.hash, record.key, record.value_text)?;
        }
        Ok(())
    }
}

impl From<&Layer> for LayerView {
    fn from(layer: &Layer) -> Self {
        let held = || layer.parts.iter().filter(|part| !part.is_empty());
        let origins: std::collections::BTreeSet<u64> = held().map(|part| part.origin.0).collect();
        Self {
            objects: layer
                .objects
                .iter()
                .map(|object| ObjectView { path: object.path.clone(), bytes: object.len })
                .collect(),
            parts: held().count(),
            records: layer.records(),
            bytes: layer.bytes(),
            origin_versions: origins.into_iter().collect(),
        }
    }
}
