//! Large objects in parts.
//!
//! ```text
//!   write ─▶ pending ─ part_bytes ─▶ a task per part (parts_in_flight at most) ─▶ put_part
//!   finish ─▶ less than one part: one put; else the last part, then complete: the object appears
//!   abort, drop ─▶ once no part is on its way: abort, so that the service frees the parts
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_env::Env;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error, MultipartId, ObjectStoreExt as _, PutPayload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Bucket;
use crate::error::StoreError;
use crate::object::ObjectWriter;
use crate::options::WriteOptions;

/// Smallest part S3 takes, but for the last one.
pub(super) const PART_BYTES_MIN: usize = 5 << 20;

/// Most parts of one object.
const PARTS_MAX: usize = 10_000;

/// An object being written.
pub(super) struct Upload {
    env: Env,
    bucket: Arc<Bucket>,
    path: String,
    key: Path,
    options: WriteOptions,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    written_bytes: u64,
    parts: Option<Parts>,
    /// An earlier call failed; the object will not appear.
    failed: bool,
}

/// The parts of an upload that was begun with the service.
struct Parts {
    id: Arc<MultipartId>,
    /// Frees the parts when it is dropped unsent; see [`abort_when_dropped`].
    guard: oneshot::Sender<()>,
    /// Answers when the parts are freed.
    freed: oneshot::Receiver<()>,
    started: usize,
    in_flight: Arc<Semaphore>,
    in_flight_max: u32,
    outcomes: mpsc::UnboundedReceiver<(usize, Result<PartId, Error>)>,
    report: mpsc::UnboundedSender<(usize, Result<PartId, Error>)>,
    done: Vec<Option<PartId>>,
}

impl Upload {
    pub(super) fn new(env: &Env, bucket: &Arc<Bucket>, path: &str, key: Path, options: WriteOptions) -> Self {
        Self {
            env: env.clone(),
            bucket: Arc::clone(bucket),
            path: path.to_owned(),
            key,
            options,
            pending: vec![],
            pending_bytes: 0,
            written_bytes: 0,
            parts: None,
            failed: false,
        }
    }

    fn error(&self, error: &Error) -> StoreError {
        match self.bucket.failed(&self.path, error) {
            StoreError::NotFound { path } => StoreError::Other { path, reason: "the upload is gone".into() },
            other => other,
        }
    }

    fn other(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Other { path: self.bucket.url_of(&self.path), reason: reason.into() }
    }

    /// Begins the upload with the service, if that was not done yet.
    async fn begin(&mut self) -> Result<Parts, StoreError> {
        if let Some(parts) = self.parts.take() {
            return Ok(parts);
        }
        let id = self.bucket.client.create_multipart(&self.key).await.map_err(|error| self.error(&error))?;
        let id = Arc::new(id);
        let (report, outcomes) = mpsc::unbounded_channel();
        let in_flight_max = self.options.parts_in_flight;
        let in_flight = Arc::new(Semaphore::new(in_flight_max as usize));
        let both = (Arc::clone(&in_flight), in_flight_max);
        let (guard, freed) = abort_when_dropped(&self.env, &self.bucket, &self.key, &id, both);
        Ok(Parts { id, guard, freed, started: 0, in_flight, in_flight_max, outcomes, report, done: vec![] })
    }

    /// Takes `len` bytes off what is pending.
    fn cut(&mut self, len: usize) -> PutPayload {
        let mut part = vec![];
        let mut missing = len;
        let mut kept = vec![];
        for mut piece in self.pending.drain(..) {
            if missing == 0 {
                kept.push(piece);
            } else if piece.len() <= missing {
                missing -= piece.len();
                part.push(piece);
            } else {
                part.push(piece.split_to(missing));
                kept.push(piece);
                missing = 0;
            }
        }
        self.pending = kept;
        self.pending_bytes -= len;
        part.into_iter().collect()
    }

    /// Sends one part on its way, once there is room.
    async fn send(&mut self, payload: PutPayload) -> Result<(), StoreError> {
        let mut parts = self.begin().await?;
        if parts.started == PARTS_MAX {
            let bytes = self.options.part_bytes;
            return Err(
                self.other(format!("it needs more than {PARTS_MAX} parts of {bytes} bytes; raise the part size"))
            );
        }
        let permit = Arc::clone(&parts.in_flight).acquire_owned().await;
        let permit = permit.map_err(|closed| self.other(closed.to_string()))?;
        parts.collect().map_err(|error| self.error(&error))?;
        parts.start(&self.env, &self.bucket, &self.key, payload, permit);
        self.parts = Some(parts);
        Ok(())
    }

    async fn write_whole_parts(&mut self) -> Result<(), StoreError> {
        while self.pending_bytes >= self.options.part_bytes {
            let payload = self.cut(self.options.part_bytes);
            self.send(payload).await?;
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), StoreError> {
        let rest = self.cut(self.pending_bytes);
        if self.parts.is_none() {
            let put = self.bucket.client.put(&self.key, rest).await;
            return put.map(drop).map_err(|error| self.error(&error));
        }
        if rest.content_length() > 0 {
            self.send(rest).await?;
        }
        let mut parts = self.begin().await?;
        let ids = parts.wait().await.map_err(|error| self.error(&error))?;
        let ids = ids.ok_or_else(|| self.other("a part of the upload was lost"))?;
        let completed = self.bucket.client.complete_multipart(&self.key, &parts.id, ids).await;
        let outcome = match completed {
            Ok(_) => Ok(()),
            // An earlier try of the same request may have done it: then the upload is gone and the object is there.
            Err(error @ Error::NotFound { .. }) => self.read_back(&error).await,
            Err(error) => Err(self.error(&error)),
        };
        if matches!(outcome, Ok(()) | Err(StoreError::Unavailable { .. })) {
            // Done, or unknown: an abort could take away what the caller is about to find.
            let _ = parts.guard.send(());
        }
        outcome
    }

    async fn read_back(&self, error: &Error) -> Result<(), StoreError> {
        match self.bucket.client.head(&self.key).await {
            Ok(found) if found.size == self.written_bytes => Ok(()),
            Ok(_) | Err(Error::NotFound { .. }) => Err(self.error(error)),
            Err(error) => Err(self.error(&error)),
        }
    }
}

impl Parts {
    fn start(
        &mut self,
        env: &Env,
        bucket: &Arc<Bucket>,
        key: &Path,
        payload: PutPayload,
        permit: OwnedSemaphorePermit,
    ) {
        let index = self.started;
        self.started += 1;
        let (bucket, key, id) = (Arc::clone(bucket), key.clone(), Arc::clone(&self.id));
        let report = self.report.clone();
        let task = env.spawn.spawn(
            "store upload part",
            Box::pin(async move {
                let outcome = bucket.client.put_part(&key, &id, index, payload).await;
                // Before the permit: who gets the next one sees this outcome. Nobody listens any more if the upload
                // was given up.
                let _ = report.send((index, outcome));
                drop(permit);
            }),
        );
        // Whoever waits for it waits for its permit.
        task.detach();
    }

    /// Takes in what has ended so far.
    fn collect(&mut self) -> Result<(), Error> {
        while let Ok((index, outcome)) = self.outcomes.try_recv() {
            self.note(index, outcome)?;
        }
        Ok(())
    }

    fn note(&mut self, index: usize, outcome: Result<PartId, Error>) -> Result<(), Error> {
        let id = outcome?;
        if self.done.len() <= index {
            self.done.resize_with(index + 1, || None);
        }
        self.done[index] = Some(id);
        Ok(())
    }

    /// Waits for all parts; none if one of the tasks ended without an outcome.
    async fn wait(&mut self) -> Result<Option<Vec<PartId>>, Error> {
        ended(&self.in_flight, self.in_flight_max).await;
        self.collect()?;
        let ids: Option<Vec<PartId>> = std::mem::take(&mut self.done).into_iter().collect();
        Ok(ids.filter(|ids| ids.len() == self.started))
    }
}

/// Waits until no part is on its way.
async fn ended(in_flight: &Semaphore, in_flight_max: u32) {
    // Nobody closes the semaphore.
    let _ = in_flight.acquire_many(in_flight_max).await;
}

/// Starts a task that frees the parts of an upload when the sender is dropped before something is sent, wherever
/// that happens; the receiver hears when that is done. Parts on their way end first: one that arrived after the abort
/// would stay with the service.
fn abort_when_dropped(
    env: &Env,
    bucket: &Arc<Bucket>,
    key: &Path,
    id: &Arc<MultipartId>,
    in_flight: (Arc<Semaphore>, u32),
) -> (oneshot::Sender<()>, oneshot::Receiver<()>) {
    let (guard, given_up) = oneshot::channel::<()>();
    let (free, freed) = oneshot::channel::<()>();
    let (bucket, key, id) = (Arc::clone(bucket), key.clone(), Arc::clone(id));
    let task = env.spawn.spawn(
        "store upload abort",
        Box::pin(async move {
            if given_up.await.is_ok() {
                return;
            }
            ended(&in_flight.0, in_flight.1).await;
            match bucket.client.abort_multipart(&key, &id).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    let error = super::failure::classify(key.to_string(), &error);
                    tracing::warn!(%error, store = bucket.url, "cannot abort an upload; its parts stay with the store");
                }
            }
            // Only an abort that was asked for waits for this.
            let _ = free.send(());
        }),
    );
    task.detach();
    (guard, freed)
}

#[async_trait]
impl ObjectWriter for Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if self.failed {
            return Err(self.other("an earlier write failed or was given up"));
        }
        self.written_bytes += bytes.len() as u64;
        self.pending_bytes += bytes.len();
        self.pending.push(bytes);
        // Stays so if this future is dropped half-way: a part may be missing then.
        self.failed = true;
        self.write_whole_parts().await?;
        self.failed = false;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.failed {
            return Err(self.other("an earlier write failed or was given up"));
        }
        self.complete().await
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(Parts { freed, guard, .. }) = self.parts.take() {
            drop(guard);
            // An error means that the runtime is going down.
            let _ = freed.await;
        }
    }
}
