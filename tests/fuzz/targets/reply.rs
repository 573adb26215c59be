//! The packed body of a BatchGet reply: the bytes are the body.
#![no_main]

use bytes::Bytes;
use fkv_fuzz::packed::{KEYS_MAX, KeyStatus, Reply, ReplySection, ReplyWriter, SECTIONS_MAX, SectionStatus};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let body = Bytes::copy_from_slice(bytes);
    let reply = match Reply::parse(body.clone()) {
        Ok(reply) => reply,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let sections = reply.sections();
    assert!((1..=SECTIONS_MAX).contains(&sections.len()));
    let mut keys = 0;
    let mut writer = ReplyWriter::new(reply.header(), body.len(), usize::MAX);
    let mut is_canonical = true;
    for (index, section) in sections.enumerate() {
        keys += section.key_count();
        check(&reply, index, &section);
        // A refused section says no time; whatever stands there means nothing.
        is_canonical &= section.status() == SectionStatus::Ok || section.label().as_of_s == 0;
        write(&mut writer, &section);
    }
    assert!(keys <= KEYS_MAX);
    let again = writer.finish();
    assert!(!is_canonical || again == body, "one reply, one body");
    let again = Reply::parse(again).expect("what is written can be read");
    for (a, b) in again.sections().zip(reply.sections()) {
        assert!(a.answers().eq(b.answers()) && a.status() == b.status());
    }
});

fn check(reply: &Reply, index: usize, section: &ReplySection<'_>) {
    let same = reply.section(index).expect("a section of this number");
    assert_eq!(same.label(), section.label());
    let answers = section.answers();
    assert_eq!(answers.len(), section.key_count());
    let (mut found, mut bytes, mut all_here) = (0, 0, true);
    for (key, (status, value)) in answers.enumerate() {
        assert_eq!(status, section.key_status(key));
        all_here &= status != KeyStatus::NotHere;
        found += usize::from(status == KeyStatus::Found);
        bytes += value.len();
        assert!(status == KeyStatus::Found || value.is_empty());
        assert_eq!(reply.share(value), value);
        let width = section.value_type().expect("answers have a type").fixed_width();
        assert!(status != KeyStatus::Found || width.is_none_or(|width| width == value.len()));
    }
    assert_eq!((found, bytes), (section.found_count(), section.values().len()));
    assert_eq!(all_here, section.is_all_here());
    assert_eq!(section.label().served.is_some(), section.status() == SectionStatus::Ok);
}

fn write(writer: &mut ReplyWriter, section: &ReplySection<'_>) {
    let label = section.label();
    let Some(value_type) = section.value_type() else { return writer.refuse(label, section.status()) };
    if value_type.fixed_width().is_some() {
        let mut dense = writer.dense(label, value_type, section.key_count()).expect("it fitted before");
        for (status, value) in section.answers() {
            match status {
                KeyStatus::Found => dense.found().copy_from_slice(value),
                other => dense.missing(other),
            }
        }
        dense.finish();
    } else {
        let mut variable = writer.variable(label, section.key_count()).expect("it fitted before");
        for (status, value) in section.answers() {
            match status {
                KeyStatus::Found => variable.found(value).expect("it fitted before"),
                other => variable.missing(other),
            }
        }
        variable.finish();
    }
}
