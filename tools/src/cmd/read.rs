//! stub
use crate::cli::{BatchGetArgs, GetArgs};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
pub(super) async fn get(_: &Context, _: GetArgs) -> Outcome {
    Err(Failure::failed("x"))
}
pub(super) async fn batch_get(_: &Context, _: BatchGetArgs) -> Outcome {
    Err(Failure::failed("x"))
}
