//! What a reply says besides values: of which content it is, and how it went for a section and for each key.

use fkv_formats::id::{ContentId, Epoch, TableUid, Version};

/// A content that is or was shown: under which version and at which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shown {
    /// The version.
    pub version: Version,
    /// What it answers.
    pub content: ContentId,
    /// The epoch it was shown from.
    pub epoch: Epoch,
}

/// A content a server holds whole beside the one it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldContent {
    /// The version.
    pub version: Version,
    /// What it answers.
    pub content: ContentId,
}

/// The label of one section: everything a client needs to see whether answers fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionLabel {
    /// The table.
    pub table: TableUid,
    /// What the values of this section are of; none if the section was refused.
    pub served: Option<Shown>,
    /// What this server believes is shown everywhere; none before the first version or if the table is unknown.
    pub aligned: Option<Shown>,
    /// The other content this server could answer with on request, if any.
    pub other: Option<HeldContent>,
    /// The served content's `as_of`, in Unix seconds: what expired by then is absent. 0 if nothing is served.
    pub as_of_s: u32,
}

impl SectionLabel {
    /// The label of a table about which nothing is known here.
    #[must_use]
    pub const fn unknown(table: TableUid) -> Self {
        Self { table, served: None, aligned: None, other: None, as_of_s: 0 }
    }
}

/// How a section went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SectionStatus {
    /// Answered; see the statuses of its keys.
    Ok = 0,
    /// This server knows no table of this uid. It was dropped, or is newer than what the server has heard of.
    UnknownTable = 1,
    /// The table is known, but no whole image of it is loaded here.
    NotLoaded = 2,
    /// None of the section's keys belongs to a slot of this server.
    WrongTopology = 3,
    /// Neither image held here has the content or version asked for.
    ContentNotHeld = 4,
    /// The table's keys are of the other type.
    WrongKeyType = 5,
    /// The table's values cannot be had in the form asked for.
    WrongValueForm = 6,
    /// `read_ts` is more than five minutes ahead of this server's clock.
    ReadTsAhead = 7,
    /// The values do not fit in one reply: ask for fewer keys.
    ReplyTooLarge = 8,
    /// Stored data failed its check here: ask another sect for the same content.
    DataFault = 9,
}

impl SectionStatus {
    /// The status of `code`.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Ok,
            1 => Self::UnknownTable,
            2 => Self::NotLoaded,
            3 => Self::WrongTopology,
            4 => Self::ContentNotHeld,
            5 => Self::WrongKeyType,
            6 => Self::WrongValueForm,
            7 => Self::ReadTsAhead,
            8 => Self::ReplyTooLarge,
            9 => Self::DataFault,
            _ => return None,
        })
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// How it went for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyStatus {
    /// The content has no record of this key.
    Absent = 0,
    /// A value follows.
    Found = 1,
    /// The record's expiry time has passed.
    Expired = 2,
    /// The key's part is not owned or not loaded by this server, which says nothing about the key.
    NotHere = 3,
}

impl KeyStatus {
    /// The status in the two low bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Absent,
            1 => Self::Found,
            2 => Self::Expired,
            _ => Self::NotHere,
        }
    }

    /// Its two bits on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}
