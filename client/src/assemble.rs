//! Putting the answers of several replies into the order of the caller's keys. Pure.

use std::sync::Arc;

use fkv_formats::schema::ValueType;
use fkv_rpc::packed::{KeyStatus as Wire, Reply, ReplySection};
use half::f16;

use crate::answer::{KeyStatus, Span, Values};
use crate::split::{Positions, index};

/// A section of a reply, and the positions of the keys it answers. Keys that were *not here* are another piece's.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) positions: Positions,
    pub(crate) reply: Arc<Reply>,
    pub(crate) section: usize,
}

impl Answered {
    /// The section.
    pub(crate) fn section(&self) -> ReplySection<'_> {
        self.reply.section(self.section).expect("the section was found when the reply arrived")
    }
}

/// Pieces whose values are of different types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TypesDiffer;

/// The statuses and values of keys `0..count`, each of which some piece answers.
pub(crate) fn assemble(count: usize, pieces: &[Answered]) -> Result<(Vec<KeyStatus>, Values), TypesDiffer> {
    let mut types = pieces.iter().filter_map(|piece| piece.section().value_type());
    let value_type = types.next().ok_or(TypesDiffer)?;
    if types.any(|other| other != value_type) {
        return Err(TypesDiffer);
    }
    let mut statuses = vec![KeyStatus::Absent; count];
    let values = match value_type {
        ValueType::F32(dimension) => {
            let dimension = usize::from(dimension);
            let mut values = vec![0_f32; count * dimension];
            scatter(pieces, &mut statuses, |position, bytes| {
                let row = &mut values[position * dimension..(position + 1) * dimension];
                for (number, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *number = f32::from_le_bytes(*bytes);
                }
            });
            Values::F32 { dimension, values }
        }
        ValueType::F16(dimension) => {
            let dimension = usize::from(dimension);
            let mut values = vec![f16::ZERO; count * dimension];
            scatter(pieces, &mut statuses, |position, bytes| {
                let row = &mut values[position * dimension..(position + 1) * dimension];
                for (number, bytes) in row.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *number = f16::from_le_bytes(*bytes);
                }
            });
            Values::F16 { dimension, values }
        }
        ValueType::I64 => {
            let mut values = vec![0_i64; count];
            scatter(pieces, &mut statuses, |position, bytes| {
                values[position] = bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
            });
            Values::I64(values)
        }
        ValueType::Bytes => spans(count, pieces, &mut statuses),
    };
    Ok((statuses, values))
}

/// Notes every key's status, and gives every value found with its position.
fn scatter(pieces: &[Answered], statuses: &mut [KeyStatus], mut value: impl FnMut(usize, &[u8])) {
    for piece in pieces {
        for (position, (status, bytes)) in piece.positions.iter().zip(piece.section().answers()) {
            let position = index(*position);
            match status {
                Wire::Found => {
                    statuses[position] = KeyStatus::Found;
                    value(position, bytes);
                }
                Wire::Absent => statuses[position] = KeyStatus::Absent,
                Wire::Expired => statuses[position] = KeyStatus::Expired,
                Wire::NotHere => {}
            }
        }
    }
}

/// Byte values stay where they arrived; only where each lies is noted.
fn spans(count: usize, pieces: &[Answered], statuses: &mut [KeyStatus]) -> Values {
    let mut bodies = Vec::with_capacity(pieces.len());
    let mut spans = vec![Span::default(); count];
    for piece in pieces {
        let body = u32::try_from(bodies.len()).expect("a call has far fewer replies than keys");
        let values = piece.section().values();
        let mut start = 0;
        let one = std::slice::from_ref(piece);
        scatter(one, statuses, |position, bytes| {
            // Values of found keys follow one another without gaps; a reply body is shorter than 2^32.
            let end = start + bytes.len();
            let offset = |at: usize| u32::try_from(at).expect("a reply body is shorter than 2^32");
            spans[position] = Span { body, start: offset(start), end: offset(end) };
            start = end;
        });
        debug_assert_eq!(start, values.len(), "every value has a key");
        bodies.push(piece.reply.share(values));
    }
    Values::Bytes { bodies, spans }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fkv_formats::id::{ContentId, Epoch, TableUid, Version};
    use fkv_formats::route::RoleTable;
    use fkv_rpc::packed::{REPLY_BYTES_MAX, ReplyHeader, ReplyWriter, SectionLabel, Shown};
    use proptest::prelude::*;

    use super::*;
    use crate::answer::{AnswerLabel, TableAnswer};
    use crate::split::{ByRole, Keys};

    fn label() -> SectionLabel {
        let served = Shown { version: Version(1), content: ContentId([1; 32]), epoch: Epoch(1) };
        SectionLabel { served: Some(served), ..SectionLabel::unknown(TableUid(1)) }
    }

    /// What the model table says of a key: its status follows from the key, its value names the key.
    fn status_of(key: u64) -> Wire {
        [Wire::Found, Wire::Absent, Wire::Expired, Wire::Found][usize::try_from(key % 4).expect("below 4")]
    }

    fn value_of(key: u64, value_type: ValueType) -> Vec<u8> {
        let length = value_type.fixed_width().unwrap_or(usize::try_from(key % 23).expect("below 23"));
        key.to_le_bytes().into_iter().cycle().take(length).collect()
    }

    /// A server's answer for `keys`, saying *not here* of those that `here` denies.
    fn reply(keys: &[u64], value_type: ValueType, here: impl Fn(usize) -> bool) -> Bytes {
        let mut writer = ReplyWriter::new(ReplyHeader::default(), 0, REPLY_BYTES_MAX);
        let status = |at: usize| if here(at) { status_of(keys[at]) } else { Wire::NotHere };
        if value_type == ValueType::Bytes {
            let mut section = writer.variable(label(), keys.len()).expect("it fits");
            for (at, key) in keys.iter().enumerate() {
                match status(at) {
                    Wire::Found => section.found(&value_of(*key, value_type)).expect("it fits"),
                    missing => section.missing(missing),
                }
            }
            section.finish();
        } else {
            let mut section = writer.dense(label(), value_type, keys.len()).expect("it fits");
            for (at, key) in keys.iter().enumerate() {
                match status(at) {
                    Wire::Found => section.found().copy_from_slice(&value_of(*key, value_type)),
                    missing => section.missing(missing),
                }
            }
            section.finish();
        }
        writer.finish()
    }

    fn value_type() -> impl Strategy<Value = ValueType> {
        prop_oneof![
            Just(ValueType::Bytes),
            Just(ValueType::I64),
            (1..5_u16).prop_map(ValueType::F32),
            (1..5_u16).prop_map(ValueType::F16),
        ]
    }

    /// The bytes of the value at `position`, whatever its type.
    fn value_bytes(answer: &TableAnswer, position: usize) -> Option<Vec<u8>> {
        answer
            .bytes(position)
            .map(<[u8]>::to_vec)
            .or_else(|| answer.f32s(position).map(|row| row.iter().flat_map(|number| number.to_le_bytes()).collect()))
            .or_else(|| answer.f16s(position).map(|row| row.iter().flat_map(|number| number.to_le_bytes()).collect()))
            .or_else(|| answer.i64(position).map(|number| number.to_le_bytes().to_vec()))
    }

    proptest! {
        /// Whatever the number of roles, the sizes of the pieces and the keys that some servers do not have, every answer
        /// stands at its key's place.
        #[test]
        fn split_and_assembled_answers_stand_where_their_keys_stood(
            keys in prop::collection::vec(any::<u64>(), 0..200),
            roles in prop::sample::select(&[1_u16, 2, 3, 8, 96][..]),
            keys_max in 1..60_usize,
            absent_every in 2..9_usize,
            value_type in value_type(),
        ) {
            let asked = Keys::U64(&keys);
            let parts = asked.parts();
            let roles = RoleTable::new(roles).expect("legal");
            let all = Positions::all(keys.len());
            let answered = |positions: Positions, here: &dyn Fn(usize) -> bool| {
                let keys: Vec<u64> = positions.iter().map(|position| keys[index(*position)]).collect();
                let reply = Reply::parse(reply(&keys, value_type, here)).expect("a good reply");
                Answered { positions, reply: Arc::new(reply), section: 0 }
            };
            let mut pieces = vec![answered(Positions::from(Vec::new()), &|_| true)];
            for (_, group) in ByRole::group(&all, &parts, &roles).groups() {
                for piece in group.pieces(&asked, keys_max, 1 << 20) {
                    let here = |at: usize| !at.is_multiple_of(absent_every);
                    let elsewhere: Vec<u32> = piece.iter().copied().step_by(absent_every).collect();
                    pieces.push(answered(piece, &here));
                    pieces.push(answered(elsewhere.into(), &|_| true));
                }
            }
            let (statuses, values) = assemble(keys.len(), &pieces).expect("one type");
            let label = AnswerLabel {
                table: TableUid(1), version: Version(1), content: ContentId([1; 32]), epoch: Epoch(1), aligned: None,
                as_of_s: 0,
            };
            let answer = TableAnswer { label, mixed: false, statuses, values };
            prop_assert_eq!(answer.len(), keys.len());
            prop_assert_eq!(answer.value_type(), value_type);
            for (position, key) in keys.iter().enumerate() {
                let (status, value) = match status_of(*key) {
                    Wire::Found => (KeyStatus::Found, Some(value_of(*key, value_type))),
                    Wire::Expired => (KeyStatus::Expired, None),
                    _ => (KeyStatus::Absent, None),
                };
                prop_assert_eq!(answer.status(position), status);
                prop_assert_eq!(value_bytes(&answer, position), value);
            }
        }
    }

    #[test]
    fn values_of_two_types_are_not_put_together() {
        let piece = |value_type| Answered {
            positions: Positions::all(1),
            reply: Arc::new(Reply::parse(reply(&[0], value_type, |_| true)).expect("a good reply")),
            section: 0,
        };
        let pieces = [piece(ValueType::I64), piece(ValueType::F32(2))];
        assert_eq!(assemble(1, &pieces).err(), Some(TypesDiffer));
    }
}
