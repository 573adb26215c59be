//! One whole pack, sealed or not.
//!
//! ```text
//!   base u8 │ patches u8 │ tail u16 │ patches (crate::patch) │ hashes to look up, u64 each
//!
//!   base     a golden pack, or beyond the last one raw: the rest is the pack
//!   patches  how many, at most 31; bit 7: nothing is sealed; bit 6: directory and footer only
//!   tail     how many of the last bytes are read first
//! ```

use fkv_formats::checksum::verify_part;
use fkv_formats::error::FormatError;
use fkv_formats::inspect::{Inspection, inspect};
use fkv_formats::pack::{DirectoryRead, PackDirectory};
use fkv_formats::value::ValueCodec;

use crate::base::{ORIGIN, PACKS, directory};
use crate::choices::Choices;
use crate::part;
use crate::patch::patch;
use crate::seal::{seal_directory, seal_pack};

/// Reads a pack made of `bytes`.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let which = usize::from(choices.u8());
    let patches = choices.u8();
    let tail_len = usize::from(choices.u16());
    let mut object = match PACKS.get(which) {
        Some(golden) => {
            let mut object = golden.to_vec();
            let known = directory(golden);
            let data_end = known.parts.last().map_or(64, |part| part.range().end as usize);
            let footer = object.len() - 64;
            let mut regions = vec![footer..object.len(), data_end..footer, 0..64];
            for part in &known.parts {
                let range = part.range().start as usize..part.range().end as usize;
                let blocks = range.start + part.block_len() as usize;
                regions.extend([range.start..blocks.min(range.start + 256), blocks..range.end, range.start..blocks]);
            }
            patch(&mut object, &regions, patches & 31, &mut choices);
            object
        }
        None => choices.take(usize::MAX).to_vec(),
    };
    match patches >> 6 {
        0 => seal_pack(&mut object),
        1 => seal_directory(&mut object),
        _ => {}
    }
    let is_sound = check(&object, tail_len, &mut choices);
    assert!(is_sound || PACKS.get(which) != Some(&&object[..]), "a golden pack is sound");
}

/// Reads a pack from its tail and from end to end; gives whether it is sound.
fn check(object: &[u8], tail_len: usize, choices: &mut Choices<'_>) -> bool {
    let whole = PackDirectory::parse(object, object.len() as u64);
    let tail = &object[object.len() - tail_len.min(object.len())..];
    match PackDirectory::parse(tail, object.len() as u64) {
        Ok(DirectoryRead::Ready(directory)) => assert_eq!(Ok(DirectoryRead::Ready(directory)), whole),
        Ok(DirectoryRead::NeedTail(needed)) => {
            assert!((tail.len() as u64 + 1..=object.len() as u64).contains(&needed));
            let longer = &object[object.len() - needed as usize..];
            assert_eq!(PackDirectory::parse(longer, object.len() as u64), whole);
        }
        Err(error) => assert!(tail.len() < object.len() || whole == Err(error)),
    }
    let inspection = inspect(object);
    let Ok(DirectoryRead::Ready(directory)) = whole else {
        assert!(inspection.is_err() || matches!(inspection, Ok(Inspection::Form(_))));
        return false;
    };
    let Ok(Inspection::Pack(seen)) = inspection else {
        // The header at the beginning, which no reader needs.
        assert!(!object.starts_with(b"FKVPCK\x01\x00"), "{inspection:?}");
        return false;
    };
    assert_eq!(seen.directory, directory);
    let _ = (seen.records(), seen.bytes(), seen.displacement(), format!("{seen:?}").len());
    let codec = ValueCodec::new(&directory.schema);
    for (entry, seen) in directory.parts.iter().zip(&seen.parts) {
        let range = entry.range();
        assert!(range.start >= 64 && range.end <= object.len() as u64 && !range.is_empty());
        let data = &object[range.start as usize..range.end as usize];
        let layout = entry.layout().and_then(|layout| layout.matches(&directory.schema).map(|()| layout));
        let verified = verify_part(data, entry, directory.origin);
        let (Ok(layout), Ok(())) = (layout, verified) else {
            assert!(seen.damage.is_some());
            continue;
        };
        assert_eq!((layout.data_len(), layout.records()), (entry.len(), entry.records()));
        if directory.origin != ORIGIN {
            // Runs of another origin do not verify under ours.
            continue;
        }
        let is_sound = part::check(&layout, data, entry.part, choices);
        assert!(is_sound || seen.damage.is_some(), "part {} is damaged: what is listed is not found", entry.part);
        if seen.damage.is_none() {
            for record in layout.iter(data, entry.part, ORIGIN).map_while(Result::ok).take(3) {
                let mut served = Vec::new();
                codec.serve(record.value.unwrap_or_default(), &mut served).expect("a stored value");
                codec.decode(&served).expect("a served value");
            }
        }
    }
    if let Err(error) = directory.verify_gaps(object) {
        assert!(matches!(error, FormatError::Damaged { .. } | FormatError::Version { .. } | FormatError::Magic { .. }));
    }
    seen.is_sound()
}
