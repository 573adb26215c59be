//! Cells: what one row of a text file holds for each role of the load, wherever the bytes are.
//!
//! ```text
//!   slot   0     1 … v          v + 1 …
//!          key   value columns  expiry and delete column, if the load names them
//! ```

use fkv_meta::record::LoadSpec;

use super::super::bad::Reason;

/// Which slots a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Number of value columns.
    pub(crate) values: usize,
    /// Slot of the expiry column.
    pub(crate) expiry: Option<usize>,
    /// Slot of the delete column.
    pub(crate) deletes: Option<usize>,
}

impl Slots {
    /// Slot of the key.
    pub(crate) const KEY: usize = 0;
    /// Slot of the first value column.
    pub(crate) const VALUES: usize = 1;

    /// The slots of a load.
    #[must_use]
    pub(crate) fn of(spec: &LoadSpec) -> Self {
        Self::new(spec.value_columns.len(), spec.expiry_column.is_some(), spec.delete_column.is_some())
    }

    /// The slots of a load with so many value columns.
    #[must_use]
    pub(crate) fn new(values: usize, expiry: bool, deletes: bool) -> Self {
        let behind = Self::VALUES + values;
        Self { values, expiry: expiry.then_some(behind), deletes: deletes.then_some(behind + usize::from(expiry)) }
    }

    /// How many there are.
    #[must_use]
    pub(crate) fn count(self) -> usize {
        Self::VALUES + self.values + usize::from(self.expiry.is_some()) + usize::from(self.deletes.is_some())
    }
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    /// Nothing.
    Null,
    /// A field, or a string of JSON.
    Text(&'a [u8]),
    /// A number of JSON, as it is written.
    Number(&'a [u8]),
    /// `true` or `false` of JSON.
    Flag(bool),
    /// An array of JSON, as it is written.
    List(&'a [u8]),
    /// An object of JSON.
    Object,
}

impl Cell<'_> {
    /// What it is, for a message.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "an array",
            Self::Object => "an object",
        }
    }
}

/// What a cell holds and where in the record its content lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The record says nothing of it.
    #[default]
    Missing,
    Null,
    Text(usize, usize),
    /// Text in `Cells::unescaped`.
    Unescaped(usize, usize),
    Number(usize, usize),
    Flag(bool),
    List(usize, usize),
    Object,
}

/// The cells of one row; used again for the next one.
#[derive(Clone, Debug)]
pub(crate) struct Cells {
    places: Vec<Place>,
    unescaped: Vec<u8>,
}

impl Cells {
    /// Cells for these slots.
    #[must_use]
    pub(crate) fn new(slots: Slots) -> Self {
        Self { places: vec![Place::Missing; slots.count()], unescaped: Vec::new() }
    }

    /// Begins a row without content.
    pub(crate) fn clear(&mut self) {
        self.places.fill(Place::Missing);
        self.unescaped.clear();
    }

    /// A cell with the text that stands in the record from `start` to `end`.
    pub(crate) fn set_text(&mut self, slot: usize, start: usize, end: usize) {
        self.places[slot] = Place::Text(start, end);
    }

    /// A cell without content.
    pub(crate) fn set_null(&mut self, slot: usize) {
        self.places[slot] = Place::Null;
    }

    /// A cell with a number of JSON.
    pub(crate) fn set_number(&mut self, slot: usize, start: usize, end: usize) {
        self.places[slot] = Place::Number(start, end);
    }

    /// A cell that is `true` or `false`.
    pub(crate) fn set_flag(&mut self, slot: usize, flag: bool) {
        self.places[slot] = Place::Flag(flag);
    }

    /// A cell with an array of JSON.
    pub(crate) fn set_list(&mut self, slot: usize, start: usize, end: usize) {
        self.places[slot] = Place::List(start, end);
    }

    /// A cell with an object of JSON, which nothing can be made of.
    pub(crate) fn set_object(&mut self, slot: usize) {
        self.places[slot] = Place::Object;
    }

    /// A cell with the text that `unescape` appends.
    pub(crate) fn set_unescaped(&mut self, slot: usize, unescape: impl FnOnce(&mut Vec<u8>)) {
        let start = self.unescaped.len();
        unescape(&mut self.unescaped);
        self.places[slot] = Place::Unescaped(start, self.unescaped.len());
    }

    /// Whether the record says nothing of a cell, not even that it is null.
    pub(crate) fn is_missing(&self, slot: usize) -> bool {
        self.places[slot] == Place::Missing
    }

    /// Gives a slot the content of another one.
    pub(crate) fn copy(&mut self, from: usize, to: usize) {
        self.places[to] = self.places[from];
    }

    /// The cell of a slot of the row in `data`.
    pub(crate) fn get<'a>(&'a self, data: &'a [u8], slot: usize) -> Cell<'a> {
        match self.places[slot] {
            Place::Missing | Place::Null => Cell::Null,
            Place::Text(start, end) => Cell::Text(&data[start..end]),
            Place::Unescaped(start, end) => Cell::Text(&self.unescaped[start..end]),
            Place::Number(start, end) => Cell::Number(&data[start..end]),
            Place::Flag(flag) => Cell::Flag(flag),
            Place::List(start, end) => Cell::List(&data[start..end]),
            Place::Object => Cell::Object,
        }
    }
}

/// The text of a cell for a message: in one line and not too long.
pub(crate) fn shown(text: &[u8]) -> String {
    const CHARS: usize = 40;
    // Cut before it is made readable: it may be megabytes.
    let head = &text[..text.len().min(CHARS * 4)];
    let readable = String::from_utf8_lossy(head);
    let mut shown: String = readable.chars().take(CHARS).flat_map(char::escape_debug).collect();
    if readable.chars().nth(CHARS).is_some() || head.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// What is wrong with text where a number should be.
pub(crate) fn not_a_number(text: &[u8]) -> Reason {
    Reason::NotNumber { text: shown(text.trim_ascii()) }
}

/// What is wrong with a number that is finite, and infinite once it is rounded.
pub(crate) fn too_large(text: &[u8]) -> Reason {
    Reason::OutOfRange { number: shown(text.trim_ascii()), stored: "f32" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_shows_of_a_cell_is_one_short_line() {
        assert_eq!(shown(b"plain"), "plain");
        assert_eq!(shown(b"a\nb\t\0"), "a\\nb\\t\\0");
        assert_eq!(shown(&[b'x'; 100]), format!("{}…", "x".repeat(40)));
        assert_eq!(shown(&[b'x'; 40]), "x".repeat(40));
        assert_eq!(shown("é".repeat(30).as_bytes()), "é".repeat(30));
        assert!(shown(&[0xff; 1 << 20]).chars().count() <= 41);
    }
}
