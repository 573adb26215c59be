//! Paths, identifiers and words that are read from text: one way to write each.
#![no_main]

use fkv_formats::id::{ContentId, Digest, Slot, Version};
use fkv_formats::path::Attempt;
use fkv_formats::schema::{KeyType, TableKind, ValueType};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((attempt, kind)) = Attempt::parse(text) {
        assert_eq!(attempt.object(kind), text);
        assert!(text.starts_with(&attempt.prefix()) && !text.contains('\\'));
        assert!(text.split('/').all(|segment| !segment.starts_with('.') && !segment.is_empty()));
    }
    if let Ok(value) = text.parse::<ValueType>() {
        assert_eq!(value.to_string().parse(), Ok(value));
        assert!(value.fixed_width().is_none_or(|width| width > 0));
    }
    if let Ok(kind) = text.parse::<TableKind>() {
        assert_eq!(kind.to_string(), text);
    }
    if let Ok(key) = text.parse::<KeyType>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(content) = text.parse::<ContentId>() {
        assert_eq!(content.to_string().parse(), Ok(content));
    }
    if let Ok(slot) = text.parse::<Slot>() {
        assert_eq!(slot.to_string().parse(), Ok(slot));
    }
    if let Ok(version) = text.parse::<Version>() {
        assert_eq!(version.to_string().parse(), Ok(version));
    }
});
