//! JSON lines: one object a line ─▶ cells.
//!
//! ```text
//!   {"id": 1001, "tags": ["new"], "score": [0.5, null, 1e-3], "until": "1767225600"}⏎
//!          ────                            ─────────────────            ──────────
//!          number                          list, kept as its text       string
//! ```
//!
//! Each line is checked to be JSON as a whole; of what is not wanted nothing is kept. Names are compared exactly. Of a
//! name that an object has twice the last one counts, as most readers of JSON have it.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::bad::Reason;
use super::cell::Cells;

/// The names of the wanted columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Name and slot, ascending.
    pairs: Vec<(String, usize)>,
}

impl Names {
    /// The names, in the order of their slots.
    #[must_use]
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a String>) -> Self {
        let mut pairs: Vec<(String, usize)> = names.cloned().zip(0..).collect();
        pairs.sort_unstable();
        Self { pairs }
    }

    /// The slots that a name is for: those of the pairs from the first to the second place.
    fn find(&self, name: &str) -> Option<(usize, usize)> {
        let first = self.pairs.partition_point(|(wanted, _)| wanted.as_str() < name);
        let count = self.pairs[first..].iter().take_while(|(wanted, _)| wanted == name).count();
        (count > 0).then_some((first, first + count))
    }
}

/// Reads the object in `data[start..end]` into `cells`, and notes in `members` the slots that it has members for.
pub(crate) fn read(
    data: &[u8],
    start: usize,
    end: usize,
    names: &Names,
    cells: &mut Cells,
    members: &mut [bool],
) -> Result<(), Reason> {
    cells.clear();
    let mut reader = serde_json::Deserializer::from_slice(&data[start..end]);
    let object = Object { data, names, cells, members };
    let read = reader.deserialize_map(object).and_then(|()| reader.end());
    read.map_err(|error| not_json(&error))
}

/// The names of an object's members, as far as they can be read.
pub(crate) fn member_names(line: &[u8]) -> Vec<String> {
    struct Members(Vec<String>);
    impl<'de> Visitor<'de> for &mut Members {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<String>()? {
                self.0.push(name);
                map.next_value::<IgnoredAny>()?;
            }
            Ok(())
        }
    }
    let mut members = Members(Vec::new());
    // What comes before an error is worth showing.
    let _ = serde_json::Deserializer::from_slice(line).deserialize_map(&mut members);
    members.0
}

fn not_json(error: &serde_json::Error) -> Reason {
    let text = error.to_string();
    // A line is all that the parser has seen: its own line number is always 1.
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    // It may quote the line, which may be long.
    Reason::NotJson { what: what.chars().take(100).collect(), column: error.column() }
}

struct Object<'a> {
    data: &'a [u8],
    names: &'a Names,
    cells: &'a mut Cells,
    members: &'a mut [bool],
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(found) = map.next_key_seed(Name(self.names))? {
            let Some((first, after)) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: &RawValue = map.next_value()?;
            let slot = self.names.pairs[first].1;
            set(self.data, value.get(), slot, self.cells).map_err(serde::de::Error::custom)?;
            self.members[slot] = true;
            for (_, another) in &self.names.pairs[first + 1..after] {
                self.cells.copy(slot, *another);
                self.members[*another] = true;
            }
        }
        Ok(())
    }
}

/// Compares a member's name without keeping it.
struct Name<'a>(&'a Names);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<(usize, usize)>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<(usize, usize)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.find(name))
    }
}

/// Sets a cell to a value whose text lies within `data`.
fn set(data: &[u8], value: &str, slot: usize, cells: &mut Cells) -> Result<(), String> {
    let text = value.as_bytes();
    let start = text.as_ptr().addr() - data.as_ptr().addr();
    let end = start + text.len();
    match text {
        [b'"', inner @ .., b'"'] if memchr::memchr(b'\\', inner).is_none() => {
            cells.set_text(slot, start + 1, end - 1);
        }
        [b'"', ..] => {
            let unescaped: String = serde_json::from_str(value).map_err(|error| error.to_string())?;
            cells.set_unescaped(slot, |out| out.extend_from_slice(unescaped.as_bytes()));
        }
        [b'n', ..] => cells.set_null(slot),
        [b't', ..] => cells.set_flag(slot, true),
        [b'f', ..] => cells.set_flag(slot, false),
        [b'[', ..] => cells.set_list(slot, start, end),
        [b'{', ..] => cells.set_object(slot),
        _ => cells.set_number(slot, start, end),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::cell::{Cell, Slots};
    use super::*;

    fn cells(line: &str, wanted: &[&str]) -> Result<(Cells, Vec<bool>), Reason> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let mut cells = Cells::new(Slots::new(wanted.len() - 1, false, false));
        let mut members = vec![false; wanted.len()];
        // Blocks hold many lines: this one does not begin at 0.
        let data = format!("{{}}\n{line}");
        let names = Names::new(wanted.iter());
        read(data.as_bytes(), 3, data.len(), &names, &mut cells, &mut members).map(|()| (cells, members))
    }

    #[test]
    fn members_become_cells_of_their_kind_in_any_order() {
        let line = r#"{"x": {"id": 9}, "s": "plain", "n": -1.5e3, "e": "a\"\u00e9\ud83d\ude42\n", "l": [1, [2]], "b": true, "z": null}"#;
        let (cells, members) = cells(line, &["n", "s", "e", "l", "b", "z", "x", "none", "n"]).expect("an object");
        let data = format!("{{}}\n{line}");
        let get = |slot| cells.get(data.as_bytes(), slot);
        assert_eq!(get(0), Cell::Number(b"-1.5e3"));
        assert_eq!(get(1), Cell::Text(b"plain"));
        assert_eq!(get(2), Cell::Text("a\"é🙂\n".as_bytes()));
        assert_eq!(get(3), Cell::List(b"[1, [2]]"));
        assert_eq!(get(4), Cell::Flag(true));
        assert_eq!((get(5), get(6), get(7)), (Cell::Null, Cell::Object, Cell::Null));
        assert_eq!(get(8), get(0), "one member may serve twice");
        assert_eq!(members, [true, true, true, true, true, true, true, false, true]);
    }

    #[test]
    fn of_a_member_that_stands_twice_the_last_counts() {
        let (cells, _) = cells(r#"{"n": "first", "n": 2}"#, &["n"]).expect("an object");
        assert_eq!(cells.get(b"{}\n{\"n\": \"first\", \"n\": 2}", 0), Cell::Number(b"2"));
    }

    #[test]
    fn what_is_no_object_is_said_with_its_column() {
        for (line, named) in [
            ("[1, 2]", "invalid type: sequence, expected an object"),
            ("17", "expected an object"),
            (r#"{"n": NaN}"#, "expected value (column 7)"),
            (r#"{"n": 1"#, "EOF while parsing an object"),
            (r#"{"n": 1} {"n": 2}"#, "trailing characters"),
            (r#"{"n": 01}"#, "column"),
            (r#"{"n": "\ud800"}"#, "column"),
            (r#"{"n": "a	b"}"#, "control character"),
            (r#"{"x": tru}"#, "expected ident"),
            (r#"{'n': 1}"#, "key must be a string"),
        ] {
            let reason = cells(line, &["n"]).expect_err(line).to_string();
            assert!(reason.starts_with("the line is not a JSON object") && reason.contains(named), "{line}: {reason}");
        }
    }

    #[test]
    fn nesting_costs_no_stack() {
        for wanted in ["n", "x"] {
            let deep = format!("{{\"x\": {}1{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
            assert!(cells(&deep, &[wanted]).is_ok(), "{wanted}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_an_error_where_it_is_wanted() {
        let mut cells = Cells::new(Slots::new(0, false, false));
        let names = Names::new([String::from("n")].iter());
        let mut members = [false];
        let line = b"{\"n\": \"gr\xf6\"}";
        assert!(read(line, 0, line.len(), &names, &mut cells, &mut members).is_err());
    }

    #[test]
    fn the_names_of_a_broken_object_are_those_before_the_break() {
        assert_eq!(member_names(br#"{"a": 1, "b": [2], "c": }"#), ["a", "b", "c"]);
        assert!(member_names(b"17").is_empty());
    }
}
