//! Round trips of both bodies, and what becomes of damaged ones.

use bytes::Bytes;
use fkv_formats::id::{ContentId, Epoch, TableUid, Version};
use fkv_formats::schema::ValueType;
use proptest::prelude::*;

use super::*;

/// A section of a request as a test thinks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    header: SectionHeader,
    keys: AskedKeys,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum AskedKeys {
    U64(Vec<u64>),
    Bytes(Vec<Vec<u8>>),
}

impl AskedKeys {
    fn bytes(&self) -> usize {
        match self {
            Self::U64(keys) => u64_section_bytes(keys.len()),
            Self::Bytes(keys) => bytes_section_bytes(keys.len(), keys.iter().map(Vec::len).sum()),
        }
    }
}

/// A section of a reply as a test thinks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answered {
    label: SectionLabel,
    outcome: Result<(ValueType, Vec<Answer>), SectionStatus>,
}

type Answer = (KeyStatus, Vec<u8>);

fn content() -> impl Strategy<Value = ContentId> {
    any::<[u8; 32]>().prop_map(ContentId)
}

fn section_header() -> impl Strategy<Value = SectionHeader> {
    let selector = prop_oneof![
        Just(Selector::Aligned),
        content().prop_map(Selector::Content),
        (1..u64::MAX).prop_map(|version| Selector::Version(Version(version))),
    ];
    let form = prop_oneof![Just(ValueForm::Native), Just(ValueForm::F32), Just(ValueForm::F16)];
    (any::<u64>(), selector, form).prop_map(|(uid, selector, form)| SectionHeader {
        table: TableUid(uid),
        selector,
        form,
    })
}

fn asked() -> impl Strategy<Value = Vec<Asked>> {
    let keys = prop_oneof![
        prop::collection::vec(any::<u64>(), 0..40).prop_map(AskedKeys::U64),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..40).prop_map(AskedKeys::Bytes),
    ];
    prop::collection::vec((section_header(), keys).prop_map(|(header, keys)| Asked { header, keys }), 1..5)
}

fn shown() -> impl Strategy<Value = Shown> {
    (1..u64::MAX, content(), any::<u64>()).prop_map(|(version, content, epoch)| Shown {
        version: Version(version),
        content,
        epoch: Epoch(epoch),
    })
}

fn answers(value_type: ValueType) -> impl Strategy<Value = Vec<Answer>> {
    let length = value_type.fixed_width().map_or(0..=30, |width| width..=width);
    let one = (0..4_u8, prop::collection::vec(any::<u8>(), length)).prop_map(|(bits, value)| {
        let status = KeyStatus::from_bits(bits);
        (status, if status == KeyStatus::Found { value } else { Vec::new() })
    });
    prop::collection::vec(one, 0..60)
}

fn answered() -> impl Strategy<Value = Vec<Answered>> {
    let value_type = prop_oneof![
        Just(ValueType::Bytes),
        Just(ValueType::I64),
        (1..9_u16).prop_map(ValueType::F32),
        (1..9_u16).prop_map(ValueType::F16),
    ];
    let outcome = prop_oneof![
        3 => value_type.prop_flat_map(|value_type| answers(value_type).prop_map(move |answers| Ok((value_type, answers)))),
        1 => (1..10_u8).prop_map(|code| Err(SectionStatus::from_code(code).expect("a code in use"))),
    ];
    let other =
        (1..u64::MAX, content()).prop_map(|(version, content)| HeldContent { version: Version(version), content });
    let section = (any::<u64>(), shown(), prop::option::of(shown()), prop::option::of(other), any::<u32>(), outcome)
        .prop_map(|(uid, served, aligned, other, as_of_s, outcome)| {
            let ok = outcome.is_ok();
            let label = SectionLabel {
                table: TableUid(uid),
                served: ok.then_some(served),
                aligned,
                other,
                as_of_s: if ok { as_of_s } else { 0 },
            };
            Answered { label, outcome }
        });
    prop::collection::vec(section, 1..5)
}

fn write_request(header: RequestHeader, sections: &[Asked]) -> Bytes {
    let bytes = sections.iter().map(|section| section.keys.bytes()).sum();
    let mut writer = RequestWriter::new(header, bytes);
    for section in sections {
        match &section.keys {
            AskedKeys::U64(keys) => writer.u64_section(section.header, keys.iter().copied()),
            AskedKeys::Bytes(keys) => {
                let key_bytes = keys.iter().map(Vec::len).sum();
                writer.bytes_section(section.header, key_bytes, keys.iter().map(Vec::as_slice));
            }
        }
    }
    let body = writer.finish();
    assert_eq!(body.len(), 32 + bytes, "the size was told exactly");
    body
}

fn read_request(body: Bytes) -> Result<(RequestHeader, Vec<Asked>), PackedError> {
    let request = Request::parse(body)?;
    let sections = request.sections().map(|section| Asked {
        header: section.header,
        keys: match section.keys {
            Keys::U64(keys) => AskedKeys::U64(keys.iter().collect()),
            Keys::Bytes(keys) => AskedKeys::Bytes(keys.iter().map(<[u8]>::to_vec).collect()),
        },
    });
    Ok((request.header(), sections.collect()))
}

fn write_reply(header: ReplyHeader, sections: &[Answered]) -> Bytes {
    let mut writer = ReplyWriter::new(header, 0, REPLY_BYTES_MAX);
    for Answered { label, outcome } in sections {
        match outcome {
            Err(status) => writer.refuse(*label, *status),
            Ok((ValueType::Bytes, answers)) => {
                let mut section = writer.variable(*label, answers.len()).expect("it fits");
                for (status, value) in answers {
                    match status {
                        KeyStatus::Found => section.found(value).expect("it fits"),
                        missing => section.missing(*missing),
                    }
                }
                section.finish();
            }
            Ok((value_type, answers)) => {
                let mut section = writer.dense(*label, *value_type, answers.len()).expect("it fits");
                for (status, value) in answers {
                    match status {
                        KeyStatus::Found => section.found().copy_from_slice(value),
                        missing => section.missing(*missing),
                    }
                }
                section.finish();
            }
        }
    }
    writer.finish()
}

fn read_reply(body: Bytes) -> Result<(ReplyHeader, Vec<Answered>), PackedError> {
    let reply = Reply::parse(body)?;
    let sections = reply.sections().map(|section| {
        let answers: Vec<_> = section.answers().map(|(status, value)| (status, value.to_vec())).collect();
        for (index, (status, _)) in answers.iter().enumerate() {
            assert_eq!(section.key_status(index), *status, "both ways of reading agree");
        }
        assert_eq!(section.found_count(), answers.iter().filter(|(status, _)| *status == KeyStatus::Found).count());
        assert_eq!(section.is_all_here(), answers.iter().all(|(status, _)| *status != KeyStatus::NotHere));
        assert_eq!(section.values().len(), answers.iter().map(|(_, value)| value.len()).sum::<usize>());
        let outcome = section.value_type().map(|value_type| (value_type, answers)).ok_or(section.status());
        Answered { label: section.label(), outcome }
    });
    Ok((reply.header(), sections.collect()))
}

proptest! {
    #[test]
    fn a_request_reads_back_as_written(canary: bool, generation: u64, read_ts_ms: u64, sections in asked()) {
        let header = RequestHeader { canary, generation, read_ts_ms };
        let body = write_request(header, &sections);
        prop_assert!(body.len().is_multiple_of(8));
        prop_assert_eq!(read_request(body), Ok((header, sections)));
    }

    #[test]
    fn a_reply_reads_back_as_written(generation: u64, server_ms: u64, sections in answered()) {
        let header = ReplyHeader { generation, server_ms };
        let body = write_reply(header, &sections);
        prop_assert!(body.len().is_multiple_of(8));
        prop_assert_eq!(read_reply(body), Ok((header, sections)));
    }

    /// Every length that is not the whole is refused, and none is read beyond its end.
    #[test]
    fn a_cut_body_is_refused(asked in asked(), answered in answered(), cut in any::<prop::sample::Index>()) {
        let body = write_request(RequestHeader::default(), &asked);
        prop_assert!(read_request(body.slice(..cut.index(body.len()))).is_err());
        let body = write_reply(ReplyHeader::default(), &answered);
        prop_assert!(read_reply(body.slice(..cut.index(body.len()))).is_err());
    }

    /// A flipped bit is refused or changes what is read; it is never ignored, and nothing panics.
    #[test]
    fn a_flipped_bit_never_goes_unseen(
        asked in asked(), answered in answered(), at in any::<prop::sample::Index>(), bit in 0..8_u8
    ) {
        let flip = |body: &Bytes| {
            let mut bytes = body.to_vec();
            bytes[at.index(body.len())] ^= 1 << bit;
            Bytes::from(bytes)
        };
        let body = write_request(RequestHeader::default(), &asked);
        prop_assert_ne!(read_request(flip(&body)), read_request(body));
        let body = write_reply(ReplyHeader::default(), &answered);
        prop_assert_ne!(read_reply(flip(&body)), read_reply(body));
    }

    /// Noise behind a true header gets further than noise alone.
    #[test]
    fn noise_gives_errors(mut noise in prop::collection::vec(any::<u8>(), 0..2000), sections in 0..70_u16, small: bool) {
        let _ = read_request(noise.clone().into());
        let _ = read_reply(noise.clone().into());
        if noise.len() >= 32 {
            if small {
                noise.iter_mut().for_each(|byte| *byte &= 3);
            }
            noise[4..8].fill(0);
            noise[24..26].copy_from_slice(&sections.to_le_bytes());
            noise[26..32].fill(0);
            noise[..4].copy_from_slice(&REQUEST_MAGIC);
            let _ = read_request(noise.clone().into());
            noise[..4].copy_from_slice(&REPLY_MAGIC);
            let _ = read_reply(noise.into());
        }
    }
}

fn header(selector: Selector) -> SectionHeader {
    SectionHeader { table: TableUid(7), selector, form: ValueForm::Native }
}

fn label() -> SectionLabel {
    let served = Shown { version: Version(3), content: ContentId([9; 32]), epoch: Epoch(4) };
    SectionLabel { served: Some(served), aligned: Some(served), ..SectionLabel::unknown(TableUid(7)) }
}

/// `body` with `bytes` at `at`.
fn patched(body: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut patched = body.to_vec();
    patched[at..at + bytes.len()].copy_from_slice(bytes);
    patched.into()
}

#[test]
fn a_request_that_asks_too_much_is_refused_before_memory_is_spent() {
    let mut writer = RequestWriter::new(RequestHeader::default(), u64_section_bytes(2));
    writer.u64_section(header(Selector::Aligned), [1, 2].into_iter());
    let body = writer.finish();
    assert_eq!(
        Request::parse(patched(&body, 44, &u32::MAX.to_le_bytes())).err(),
        Some(PackedError::Keys(u32::MAX as usize))
    );
    assert_eq!(Request::parse(patched(&body, 24, &65_u16.to_le_bytes())).err(), Some(PackedError::Sections(65)));
    assert_eq!(Request::parse(patched(&body, 24, &[0, 0])).err(), Some(PackedError::Sections(0)));
    assert_eq!(
        Request::parse(vec![0; REQUEST_BYTES_MAX + 1].into()).err(),
        Some(PackedError::TooLong { bytes: REQUEST_BYTES_MAX + 1, max: REQUEST_BYTES_MAX })
    );
    assert_eq!(Request::parse(patched(&body, 4, &[1])).err(), Some(PackedError::Format(1)));

    // Two sections that are each within the limit, but not together.
    let half = KEYS_MAX / 2 + 1;
    let mut long = body[..32].to_vec();
    long[24] = 2;
    for _ in 0..2 {
        let mut section = body[32..96].to_vec();
        section[12..16].copy_from_slice(&u32::try_from(half).expect("small").to_le_bytes());
        long.extend(section);
        long.resize(long.len() + half * 8, 0);
    }
    assert_eq!(Request::parse(long.into()).err(), Some(PackedError::Keys(2 * half)));
}

#[test]
fn an_overlong_key_is_refused() {
    let key = vec![1; KEY_BYTES_MAX + 1];
    let mut writer = RequestWriter::new(RequestHeader::default(), bytes_section_bytes(1, key.len()));
    writer.bytes_section(header(Selector::Aligned), key.len(), [key.as_slice()].into_iter());
    assert_eq!(
        Request::parse(writer.finish()).err(),
        Some(PackedError::KeyTooLong { bytes: KEY_BYTES_MAX + 1, max: KEY_BYTES_MAX })
    );
}

#[test]
fn key_offsets_that_go_backwards_are_refused() {
    let mut writer = RequestWriter::new(RequestHeader::default(), bytes_section_bytes(2, 4));
    writer.bytes_section(header(Selector::Aligned), 4, [b"ab".as_slice(), b"cd"].into_iter());
    let body = writer.finish();
    for first in [5, u32::MAX] {
        let bad = patched(&body, 96, &u32::to_le_bytes(first));
        assert!(Request::parse(bad).is_err(), "first end offset {first}");
    }
    assert_eq!(
        Request::parse(patched(&body, 100, &[3])).err(),
        Some(PackedError::Offsets("a section's keys")),
        "the last offset must be the length"
    );
}

#[test]
fn a_reply_whose_counts_contradict_its_statuses_is_refused() {
    let mut writer = ReplyWriter::new(ReplyHeader::default(), 0, REPLY_BYTES_MAX);
    let mut section = writer.dense(label(), ValueType::F32(1), 3).expect("it fits");
    section.found().copy_from_slice(&1_f32.to_le_bytes());
    section.missing(KeyStatus::Absent);
    section.missing(KeyStatus::Absent);
    section.finish();
    let body = writer.finish();
    // The second key found as well, but no value for it.
    assert_eq!(
        Reply::parse(patched(&body, 200, &[0b0101])).err(),
        Some(PackedError::Contradiction("the statuses of a section do not add up to its found keys"))
    );
    // A status beyond the last key.
    assert!(Reply::parse(patched(&body, 200, &[0b1000_0001])).is_err());
}

#[test]
fn a_section_that_does_not_fit_can_be_refused_and_the_rest_still_be_answered() {
    let bytes_max = SECTIONS_MAX * 168 + 1000;
    let mut writer = ReplyWriter::new(ReplyHeader::default(), 0, bytes_max);
    assert_eq!(writer.dense(label(), ValueType::F32(1), 1000).err(), Some(ReplyTooLarge));
    writer.refuse(label(), SectionStatus::ReplyTooLarge);
    let mut section = writer.variable(label(), 3).expect("offsets fit");
    section.found(&[1; 100]).expect("it fits");
    assert_eq!(section.found(&[2; 1000]), Err(ReplyTooLarge));
    section.refuse(SectionStatus::ReplyTooLarge);
    let mut section = writer.dense(label(), ValueType::I64, 1).expect("it fits");
    section.found().copy_from_slice(&(-5_i64).to_le_bytes());
    section.finish();
    let body = writer.finish();
    assert!(body.len() <= bytes_max);
    let (_, sections) = read_reply(body).expect("a good reply");
    let refused = SectionLabel { served: None, ..label() };
    assert_eq!(sections[0], Answered { label: refused, outcome: Err(SectionStatus::ReplyTooLarge) });
    assert_eq!(sections[1], sections[0]);
    let value = (-5_i64).to_le_bytes().to_vec();
    assert_eq!(sections[2].outcome, Ok((ValueType::I64, vec![(KeyStatus::Found, value)])));
}
