//! What the S3 store makes of answers that a healthy server does not give.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fkv_store::StoreError;
use fkv_store::testing::suite::noise;
use tokio::sync::Semaphore;

use crate::scripted_server::{Answer, Request, ScriptedServer};

const TAG: &str = "etag: \"t\"\r\nlast-modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n";

fn xml(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>because</Message><Key>SIGNED-KEY</Key></Error>")
}

/// The error of `get` when every request is answered so, and how many requests there were.
async fn error_of(status: u16, body: String) -> (StoreError, usize) {
    let server = ScriptedServer::start(move |_, _| {
        let body = body.clone();
        async move { Answer::Full(status, "", body) }
    })
    .await;
    let error = server.store().get("x").await.expect_err("an error");
    (error, server.lines().len())
}

#[tokio::test]
async fn each_refusal_means_what_the_caller_can_do_about_it() {
    type Kind = fn(&StoreError) -> bool;
    let denied: Kind = |error| matches!(error, StoreError::Denied { .. });
    let unavailable: Kind = |error| matches!(error, StoreError::Unavailable { .. });
    let changed: Kind = |error| matches!(error, StoreError::Changed { .. });
    let missing: Kind = |error| matches!(error, StoreError::NotFound { .. });
    let other: Kind = |error| matches!(error, StoreError::Other { .. });
    // Once is the first try; three times is with both retries.
    for (status, code, kind, requests) in [
        (404, "NoSuchKey", missing, 1),
        (404, "NoSuchBucket", other, 1),
        (403, "AccessDenied", denied, 1),
        (403, "SignatureDoesNotMatch", denied, 1),
        (403, "RequestTimeTooSkewed", denied, 1),
        (401, "Unauthorized", denied, 1),
        (400, "ExpiredToken", denied, 1),
        (400, "RequestTimeout", unavailable, 1),
        (400, "InvalidRequest", other, 1),
        (409, "OperationAborted", unavailable, 1),
        (412, "PreconditionFailed", changed, 1),
        (429, "SlowDown", unavailable, 3),
        (500, "InternalError", unavailable, 3),
        (503, "SlowDown", unavailable, 3),
        (301, "PermanentRedirect", other, 1),
    ] {
        let (error, tried) = error_of(status, xml(code)).await;
        assert!(kind(&error), "{status} {code}: {error:?}");
        assert_eq!(tried, requests, "{status} {code}");
        assert_eq!(error.path(), "s3://bucket/x", "{error}");
        let shown = error.to_string();
        assert!(!shown.contains("SIGNED-KEY"), "{shown}");
        if !missing(&error) && status != 301 {
            assert!(shown.contains(code) && shown.contains(&status.to_string()), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_server_that_recovers_in_time_is_not_noticed() {
    let server = ScriptedServer::start(|n, _| async move {
        if n < 2 { Answer::Full(503, "", xml("SlowDown")) } else { Answer::Full(200, TAG, "body".into()) }
    })
    .await;
    assert_eq!(server.store().get("x").await.expect("the third try"), "body");
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn a_server_that_hangs_up_or_says_nothing_is_unavailable() {
    for answer in [Answer::HangUp, Answer::Silence] {
        let server = ScriptedServer::start(move |_, _| {
            let answer = answer.clone();
            async move { answer }
        })
        .await;
        let error = server.store().get("x").await.expect_err("no answer");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert_eq!(server.lines().len(), 3, "tries are bounded");
    }
}

/// Too few bytes must never pass for an object.
#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    let server = ScriptedServer::start(|_, _| async { Answer::CutShort(TAG, "only this".into(), 100) }).await;
    let error = server.store().get("x").await.expect_err("bytes are missing");
    assert!(matches!(error, StoreError::Unavailable { .. } | StoreError::Other { .. }), "{error:?}");
    let server = ScriptedServer::start(|_, _| async { Answer::CutShort("", "only this".into(), 100) }).await;
    assert!(server.store().get("x").await.is_err(), "without a tag nothing can be resumed");
}

/// Some services ignore a range, or answer with another one.
#[tokio::test]
async fn another_range_than_the_one_asked_for_is_an_error() {
    for (status, header) in [
        (200, TAG),
        (206, "etag: \"t\"\r\ncontent-range: bytes 1-4/100\r\nlast-modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n"),
        (206, "etag: \"t\"\r\ncontent-range: bytes 0-3/4\r\nlast-modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n"),
    ] {
        let server =
            ScriptedServer::start(move |_, _| async move { Answer::Full(status, header, "abcd".into()) }).await;
        let error = server.store().get_range("x", 0..5).await.expect_err(header);
        assert!(!matches!(error, StoreError::NotFound { .. }), "{error:?}");
    }
}

/// The tag goes into the request, and an answer with another one is refused even if the server ignored that.
#[tokio::test]
async fn an_object_replaced_under_a_reader_is_changed() {
    let range = "etag: \"new\"\r\ncontent-range: bytes 0-3/4\r\nlast-modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n";
    let server = ScriptedServer::start(move |_, request: Request| async move {
        assert!(request.headers.contains("if-match: \"old\""), "{}", request.headers);
        Answer::Full(206, range, "abcd".into())
    })
    .await;
    let noted = fkv_store::ObjectMeta { path: "x".into(), len: 4, etag: Some("\"old\"".into()), modified_ms: 0 };
    let error = server.store().get_range_of(&noted, 0..4).await.expect_err("another object");
    assert!(matches!(error, StoreError::Changed { .. }), "{error:?}");
}

/// A service that takes uploads in parts. `part` decides over each part, `complete` over the completion.
async fn uploads<P, C>(
    part: impl Fn() -> P + Send + Sync + 'static,
    complete: impl Fn() -> C + Send + Sync + 'static,
) -> ScriptedServer
where
    P: Future<Output = Answer> + Send + 'static,
    C: Future<Output = Answer> + Send + 'static,
{
    let (part, complete) = (Arc::new(part), Arc::new(complete));
    ScriptedServer::start(move |_, request: Request| {
        let (part, complete) = (Arc::clone(&part), Arc::clone(&complete));
        async move {
            let line = request.line.as_str();
            match line.split(' ').next() {
                Some("POST") if line.contains("?uploads") => {
                    let id = "<InitiateMultipartUploadResult><UploadId>U1</UploadId></InitiateMultipartUploadResult>";
                    Answer::Full(200, "", id.into())
                }
                Some("PUT") => part().await,
                Some("POST") => complete().await,
                Some("DELETE") => Answer::Full(204, "", String::new()),
                _ => Answer::Full(200, TAG, " ".repeat(12 << 20)),
            }
        }
    })
    .await
}

async fn part_taken() -> Answer {
    Answer::Full(200, TAG, String::new())
}

async fn completed() -> Answer {
    let body = "<CompleteMultipartUploadResult><ETag>\"t\"</ETag></CompleteMultipartUploadResult>";
    Answer::Full(200, "", body.into())
}

#[tokio::test]
async fn no_more_parts_are_on_their_way_than_allowed() {
    let (gate, now, most) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = uploads(
        {
            let (gate, now, most) = (Arc::clone(&gate), Arc::clone(&now), Arc::clone(&most));
            move || {
                let (gate, now, most) = (Arc::clone(&gate), Arc::clone(&now), Arc::clone(&most));
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    gate.acquire().await.expect("open").forget();
                    now.fetch_sub(1, Ordering::SeqCst);
                    part_taken().await
                }
            }
        },
        completed,
    )
    .await;
    let mut writer = server.store().writer("x").await.expect("a writer");
    let mut writing = Box::pin(async move {
        writer.write(noise(30 << 20, 1)).await.expect("written");
        writer.finish().await.expect("finished");
    });
    // Two parts reach the server; the third has to wait.
    while now.load(Ordering::SeqCst) < 2 {
        assert!(futures::poll!(&mut writing).is_pending());
        server.env.clock.sleep(Duration::from_millis(1)).await;
    }
    gate.add_permits(100);
    writing.await;
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), 6);
}

#[tokio::test]
async fn a_part_that_is_refused_fails_the_writer_and_frees_the_rest() {
    let server = uploads(|| async { Answer::Full(403, "", xml("AccessDenied")) }, completed).await;
    let mut writer = server.store().writer("x").await.expect("a writer");
    let mut outcome = Ok(());
    for piece in 0..8 {
        if outcome.is_ok() {
            outcome = writer.write(noise(5 << 20, piece)).await;
        }
    }
    let error = outcome.expect_err("parts are refused");
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert!(writer.write(Bytes::from_static(b"x")).await.is_err(), "a part is missing");
    assert!(writer.finish().await.is_err(), "a part is missing");
    server.wait_for("DELETE /bucket/x?uploadId=U1").await;
    assert!(!server.lines().iter().any(|line| line.starts_with("POST /bucket/x?uploadId")), "never completed");
}

#[tokio::test]
async fn giving_up_frees_the_parts() {
    for by_abort in [true, false] {
        let server = uploads(part_taken, completed).await;
        let mut writer = server.store().writer("x").await.expect("a writer");
        writer.write(noise(12 << 20, 1)).await.expect("written");
        if by_abort {
            writer.abort().await;
            assert!(server.lines().iter().any(|line| line.starts_with("DELETE")), "abort returns when it is done");
        } else {
            drop(writer);
            server.wait_for("DELETE /bucket/x?uploadId=U1").await;
        }
        assert!(!server.lines().iter().any(|line| line.starts_with("POST /bucket/x?uploadId")), "never completed");
    }
}

/// The first try went through and its answer was lost: the second finds no upload, but the object is there.
#[tokio::test]
async fn a_completion_that_went_through_unheard_is_read_back() {
    let server = uploads(part_taken, || async { Answer::Full(404, "", xml("NoSuchUpload")) }).await;
    let store = server.store();
    let mut writer = store.writer("x").await.expect("a writer");
    writer.write(noise(12 << 20, 1)).await.expect("written");
    writer.finish().await.expect("an object of this length is there");
    assert!(server.lines().iter().any(|line| line.starts_with("HEAD /bucket/x")));

    let mut writer = store.writer("x").await.expect("a writer");
    writer.write(noise(13 << 20, 1)).await.expect("written");
    let error = writer.finish().await.expect_err("the object that is there is another one");
    assert!(error.to_string().contains("upload is gone"), "{error}");
}

/// Whether the object is there is unknown then; an abort could take it away from who reads it back.
#[tokio::test]
async fn a_completion_without_an_answer_is_unavailable_and_not_aborted() {
    let server = uploads(part_taken, || async { Answer::Full(503, "", xml("SlowDown")) }).await;
    let mut writer = server.store().writer("x").await.expect("a writer");
    writer.write(noise(6 << 20, 1)).await.expect("written");
    let error = writer.finish().await.expect_err("no answer");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    // A request that comes after whatever the writer left behind.
    server.store().head("x").await.expect("answered");
    assert!(!server.lines().iter().any(|line| line.starts_with("DELETE")), "{:?}", server.lines());
}
