//! In which type values travel: as declared, or floats of the width the client asks for.

use fkv_formats::schema::{Schema, Storage, ValueType};
use fkv_rpc::packed::{SectionStatus, ValueForm, reply_section_bytes};
use half::f16;

/// How stored values become values of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conversion {
    /// The type the reply's section has.
    pub(crate) reply_type: ValueType,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Copy,
    Widen,
    Narrow,
}

impl Conversion {
    /// From what `schema` stores to what `form` asks for.
    pub(crate) fn new(schema: &Schema, form: ValueForm) -> Result<Self, SectionStatus> {
        let reply_type = match (form, schema.value) {
            (ValueForm::Native, declared) => declared,
            (ValueForm::F32, ValueType::F32(d) | ValueType::F16(d)) => ValueType::F32(d),
            (ValueForm::F16, ValueType::F32(d) | ValueType::F16(d)) => ValueType::F16(d),
            (_, ValueType::Bytes | ValueType::I64) => return Err(SectionStatus::WrongValueForm),
        };
        let stored = match (schema.value, schema.storage) {
            (ValueType::F32(d), Storage::F16) => ValueType::F16(d),
            (declared, _) => declared,
        };
        let step = match (stored, reply_type) {
            (ValueType::F16(_), ValueType::F32(_)) => Step::Widen,
            (ValueType::F32(_), ValueType::F16(_)) => Step::Narrow,
            _ => Step::Copy,
        };
        Ok(Self { reply_type, step })
    }

    /// Bytes that a section of `keys` answers takes, with `mean` bytes a value where they vary in length.
    pub(crate) fn reply_bytes(self, keys: usize, mean: usize) -> usize {
        let varying = if self.reply_type.fixed_width().is_none() { keys * mean } else { 0 };
        reply_section_bytes(self.reply_type, keys) + varying
    }

    /// Whether values go into the reply as they are stored.
    pub(crate) fn copies(self) -> bool {
        self.step == Step::Copy
    }

    /// Fills `reply` from a stored value; `false` if the stored bytes have another width than the schema says.
    #[inline]
    pub(crate) fn fill(self, stored: &[u8], reply: &mut [u8]) -> bool {
        match self.step {
            Step::Copy => {
                if stored.len() != reply.len() {
                    return false;
                }
                reply.copy_from_slice(stored);
            }
            Step::Widen => {
                let (halves, rest) = stored.as_chunks::<2>();
                let (singles, _) = reply.as_chunks_mut::<4>();
                if !rest.is_empty() || halves.len() != singles.len() {
                    return false;
                }
                for (single, half) in singles.iter_mut().zip(halves) {
                    *single = f16::from_le_bytes(*half).to_f32().to_le_bytes();
                }
            }
            Step::Narrow => {
                let (singles, rest) = stored.as_chunks::<4>();
                let (halves, _) = reply.as_chunks_mut::<2>();
                if !rest.is_empty() || halves.len() != singles.len() {
                    return false;
                }
                for (half, single) in halves.iter_mut().zip(singles) {
                    *half = f16::from_f32(f32::from_le_bytes(*single)).to_le_bytes();
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use fkv_formats::schema::{KeyType, TableKind};

    use super::*;

    fn schema(value: ValueType, storage: Storage) -> Schema {
        Schema { kind: TableKind::Mem, key: KeyType::U64, value, storage, f16_overflow: Default::default(), ttl: false }
    }

    #[test]
    fn floats_travel_in_the_width_asked_for() {
        let halves: Vec<u8> = [1.5_f32, -0.25].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let singles: Vec<u8> = [1.5_f32, -0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
        for (declared, storage, form, stored, expected) in [
            (ValueType::F32(2), Storage::F16, ValueForm::Native, &halves, &singles),
            (ValueType::F32(2), Storage::F16, ValueForm::F32, &halves, &singles),
            (ValueType::F32(2), Storage::F16, ValueForm::F16, &halves, &halves),
            (ValueType::F32(2), Storage::Native, ValueForm::F16, &singles, &halves),
            (ValueType::F16(2), Storage::Native, ValueForm::F32, &halves, &singles),
            (ValueType::F16(2), Storage::Native, ValueForm::Native, &halves, &halves),
        ] {
            let conversion = Conversion::new(&schema(declared, storage), form).expect("floats");
            let mut reply = vec![0; conversion.reply_type.fixed_width().expect("fixed")];
            assert!(conversion.fill(stored, &mut reply));
            assert_eq!(&reply, expected, "{declared} {storage} {form:?}");
            assert!(!conversion.fill(&stored[1..], &mut reply), "a value of another width is a fault, not an answer");
        }
    }

    #[test]
    fn integers_and_bytes_have_one_form() {
        for value in [ValueType::I64, ValueType::Bytes] {
            let schema = schema(value, Storage::Native);
            assert_eq!(Conversion::new(&schema, ValueForm::F32), Err(SectionStatus::WrongValueForm));
            assert_eq!(Conversion::new(&schema, ValueForm::Native).map(|to| to.reply_type), Ok(value));
        }
    }
}
