//! The identifiers every stage shares. Each is its own type, so that a version can never stand where an epoch is
//! meant; all are plain numbers or digests in records, on the wire and in paths.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of parts of every table: the unit of routing, movement and sharing. A constant of the system.
pub const PART_COUNT: u16 = 2400;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl $name {
            /// The number after this one. Overflow would take longer than the system's life; it is asserted.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("identifiers never run out"))
            }
        }
    };
}

number_id! {
    /// A table's identity: the metadata revision that created it. A table dropped and made again has another one.
    TableUid, u64
}
number_id! {
    /// A table's dense version number; the first is 1. Never reused.
    Version, u64
}
number_id! {
    /// A table's counter of commits, rollbacks and releases; "newest" means highest epoch.
    Epoch, u64
}
number_id! {
    /// A task's dense number within its table; the first is 1.
    TaskId, u64
}
number_id! {
    /// A role's number within its sect, from 0.
    Role, u16
}
number_id! {
    /// A part's number, `0..PART_COUNT`.
    Part, u16
}

/// A slot: one role of one sect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Slot {
    /// Name of the sect.
    pub sect: String,
    /// Role within the sect.
    pub role: Role,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sect, self.role)
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.to_string()
    }
}

impl TryFrom<String> for Slot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Slot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (sect, role) = text.split_once('/').ok_or_else(|| format!("`{text}` is not a slot: expected sect/role"))?;
        let role = role.parse().map_err(|_| format!("`{text}` is not a slot: `{role}` is not a role number"))?;
        Ok(Self { sect: sect.to_owned(), role })
    }
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl $name {
            /// The first 12 hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                self.0.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let bytes = text.as_bytes();
                let bad = || format!("`{text}` is not 64 hexadecimal digits");
                if bytes.len() != 64 {
                    return Err(bad());
                }
                let mut id = [0; 32];
                for (byte, pair) in id.iter_mut().zip(bytes.chunks_exact(2)) {
                    let digit = |c: u8| (c as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
                    let (high, low) = (digit(pair[0]).ok_or_else(bad)?, digit(pair[1]).ok_or_else(bad)?);
                    *byte = (high << 4) | low;
                }
                Ok(Self(id))
            }
        }
    };
}

digest_id! {
    /// What a version answers, for ever: equal content id ⇒ equal answers.
    ContentId
}
digest_id! {
    /// A SHA-256 of stored bytes.
    Digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_survive_text() {
        let slot = Slot { sect: "a".into(), role: Role(2) };
        assert_eq!(slot.to_string().parse::<Slot>(), Ok(slot));
        assert!("a".parse::<Slot>().is_err());
        assert!("a/x".parse::<Slot>().is_err());
        let id = ContentId(std::array::from_fn(|i| u8::try_from(i * 7).unwrap_or(255)));
        assert_eq!(id.to_string().parse::<ContentId>(), Ok(id));
        assert!("zz".repeat(32).parse::<ContentId>().is_err());
        assert!("é".repeat(32).parse::<ContentId>().is_err());
        assert_eq!(id.short().len(), 12);
    }
}
