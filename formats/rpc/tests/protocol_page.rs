//! `docs/protocol.md` is what clients in other languages are written from. Its examples, tables and limits must be what
//! this crate does.

use fkv_formats::hash::{hash_bytes, hash_u64};
use fkv_formats::id::{ContentId, Epoch, TableUid, Version};
use fkv_formats::record::VALUE_BYTES_MAX;
use fkv_formats::route::{RoleTable, legal_role_counts, part_of};
use fkv_rpc::packed::*;
use fkv_rpc::status::{ErrorKind, Failure};
use tonic::Status;

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// The bytes of the first code block after `heading`; `09 … 09` and `00 … 00` stand for 32 bytes.
fn example_after(heading: &str) -> Vec<u8> {
    let after = PAGE.split_once(heading).expect("the heading is there").1;
    let block = after.split("```").nth(1).expect("a code block follows");
    let expanded = block.replace("09 … 09", &"09 ".repeat(32)).replace("00 … 00", &"00 ".repeat(32));
    let byte = |digits: &str| u8::from_str_radix(digits, 16).expect("two hexadecimal digits");
    expanded.split_whitespace().map(byte).collect()
}

/// The cells of the table row that begins with `first`.
fn row(first: &str) -> Vec<&'static str> {
    let line = PAGE.lines().find(|line| line.starts_with(&format!("| {first} |"))).expect("the row is there");
    line.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn the_request_example_is_what_is_written() {
    let mut writer =
        RequestWriter::new(RequestHeader { canary: false, generation: 3, read_ts_ms: 1000 }, bytes_section_bytes(2, 5));
    let header = SectionHeader { table: TableUid(7), selector: Selector::Aligned, form: ValueForm::Native };
    writer.bytes_section(header, 5, [b"ab".as_slice(), b"cde"].into_iter());
    assert_eq!(example_after("Example: the keys `ab`"), writer.finish());
}

#[test]
fn the_reply_example_is_what_is_written() {
    let served = Shown { version: Version(3), content: ContentId([9; 32]), epoch: Epoch(4) };
    let label = SectionLabel { served: Some(served), aligned: Some(served), ..SectionLabel::unknown(TableUid(7)) };
    let mut writer = ReplyWriter::new(ReplyHeader { generation: 3, server_ms: 1001 }, 0, REPLY_BYTES_MAX);
    let mut section = writer.variable(label, 5).expect("it fits");
    section.found(b"xy").expect("it fits");
    section.missing(KeyStatus::Absent);
    section.missing(KeyStatus::Expired);
    section.missing(KeyStatus::NotHere);
    section.found(b"z").expect("it fits");
    section.finish();
    let body = writer.finish();
    assert_eq!(body.len(), 232);
    assert_eq!(example_after("Example: five keys"), body);
}

#[test]
fn keys_are_routed_as_the_page_says() {
    for (first, key) in [("0", 0), ("1", 1), ("42", 42), ("2^64 − 1", u64::MAX)] {
        let h = hash_u64(key);
        // "0" and "1" also begin rows of other tables: the routing table is the one with six cells more.
        let line =
            PAGE.lines().find(|line| line.starts_with(&format!("| {first} | `"))).expect("the key's row is there");
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells[1], format!("`{h:016x}`"));
        assert_eq!(cells[2], part_of(h).to_string());
        for (cell, roles) in cells[3..].iter().zip([2, 3, 5, 8]) {
            let table = RoleTable::new(roles).expect("a legal number");
            assert_eq!(*cell, table.role_of(part_of(h)).to_string(), "key {key}, {roles} roles");
        }
    }
    assert!(PAGE.contains(&format!("`{:016x}`", hash_bytes(b""))));
    let legal = format!("LEGAL = {:?}", legal_role_counts());
    assert!(PAGE.contains(&legal), "the page lists {legal}");
}

#[test]
fn limits_are_as_the_page_says() {
    assert_eq!(row("sections in a body")[1], SECTIONS_MAX.to_string());
    assert_eq!(row("keys in a body, over all sections")[1].replace(',', ""), KEYS_MAX.to_string());
    assert_eq!(row("bytes of a key")[1].replace(',', ""), KEY_BYTES_MAX.to_string());
    assert_eq!(row("bytes of a value")[1], format!("{} MiB", VALUE_BYTES_MAX >> 20));
    assert_eq!(row("bytes of a request body")[1], format!("{} MiB", REQUEST_BYTES_MAX >> 20));
    assert_eq!(row("bytes of a reply body")[1], format!("{} MiB", REPLY_BYTES_MAX >> 20));
    assert!(row("protobuf around a body")[1].contains(&MESSAGE_OVERHEAD_BYTES.to_string()));
    // One value always fits in one reply, so that halving a batch ends.
    const { assert!(VALUE_BYTES_MAX * 2 < REPLY_BYTES_MAX) };
}

#[test]
fn error_kinds_are_as_the_page_says() {
    for kind in [
        ErrorKind::BadRequest,
        ErrorKind::BatchTooLarge,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::Conflict,
        ErrorKind::Refused,
        ErrorKind::Unsupported,
        ErrorKind::Overloaded,
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Internal,
    ] {
        let cells = row(&format!("`{kind}`"));
        let status = Status::from(Failure::new(kind, "x"));
        assert_eq!(cells[1].replace('_', ""), format!("{:?}", status.code()).to_uppercase());
        assert_eq!(cells[2], format!("`{}`", kind.retry().name()));
    }
}

#[test]
fn section_statuses_are_as_the_page_says() {
    let names = [
        "ok",
        "unknown table",
        "not loaded",
        "wrong topology",
        "content not held",
        "wrong key type",
        "wrong value form",
        "read_ts ahead",
        "reply too large",
        "data fault",
    ];
    for (code, name) in (0_u8..).zip(names) {
        let status = SectionStatus::from_code(code).expect("a code in use");
        let known = format!("{status:?}").to_lowercase();
        assert_eq!(known, name.replace([' ', '_'], ""));
        assert!(PAGE.contains(&format!("| {code} | {name} |")), "{code} {name}");
    }
    assert_eq!(SectionStatus::from_code(10), None);
}
