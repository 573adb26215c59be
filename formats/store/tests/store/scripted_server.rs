//! An HTTP server that answers as a test tells it, for what a healthy S3 server never does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fkv_env::{Conn, Env, TaskHandle};
use fkv_store::{NetworkOptions, S3Options, Secret, Store, StoreOptions, WriteOptions, open};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A request, as far as tests look at it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Method, path and query, as `PUT /bucket/x?partNumber=1&uploadId=u`.
    pub(crate) line: String,
    /// Headers in lower case, as `name: value` lines.
    pub(crate) headers: String,
}

/// What is sent back.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Status, further header lines, body.
    Full(u16, &'static str, String),
    /// As `Full` with status 200, but the body announced is longer by so many bytes, and the connection closes.
    CutShort(&'static str, String, usize),
    /// The connection closes without an answer.
    HangUp,
    /// Nothing, for ever.
    Silence,
}

type Script = Arc<dyn Fn(usize, Request) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A server on the loopback interface, one task per connection.
pub(crate) struct ScriptedServer {
    pub(crate) env: Env,
    endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
    _accepting: TaskHandle,
}

impl ScriptedServer {
    /// A server that answers request number `n` with `script(n, request)`.
    pub(crate) async fn start<F>(script: impl Fn(usize, Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let env = Env::real(1).expect("threads start");
        let script: Script = Arc::new(move |n, request| Box::pin(script(n, request)));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let mut listener = env.net.listen(address).await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(vec![]));
        let (spawn, seen) = (Arc::clone(&env.spawn), Arc::clone(&requests));
        let accepting = env.spawn.spawn(
            "scripted server",
            Box::pin(async move {
                while let Ok((conn, _)) = listener.accept().await {
                    let serving = serve(conn, Arc::clone(&script), Arc::clone(&seen));
                    spawn.spawn("scripted connection", Box::pin(serving)).detach();
                }
            }),
        );
        Self { env, endpoint, requests, _accepting: accepting }
    }

    /// A store here that tries twice more, and gives up on a silent server within a second.
    pub(crate) fn store(&self) -> Store {
        let options = StoreOptions {
            s3: S3Options {
                endpoint: Some(self.endpoint.clone()),
                access_key_id: Some(Secret::new("id")),
                secret_access_key: Some(Secret::new("key")),
                ..S3Options::default()
            },
            network: NetworkOptions {
                request_timeout: Duration::from_secs(1),
                retries_max: 2,
                backoff_max: Duration::from_millis(60),
                ..NetworkOptions::default()
            },
            write: WriteOptions { part_bytes: 5 << 20, parts_in_flight: 2 },
        };
        open(&self.env, "s3://bucket", &options).expect("a store")
    }

    /// The request lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests.lock().expect("no panic inside").iter().map(|request| request.line.clone()).collect()
    }

    /// Waits until a request line contains `part`.
    pub(crate) async fn wait_for(&self, part: &str) {
        while !self.lines().iter().any(|line| line.contains(part)) {
            self.env.clock.sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn serve(mut conn: Conn, script: Script, seen: Arc<Mutex<Vec<Request>>>) {
    while let Some(request) = read_request(&mut conn).await {
        let number = {
            let mut seen = seen.lock().expect("no panic inside");
            seen.push(request.clone());
            seen.len() - 1
        };
        let is_head = request.line.starts_with("HEAD ");
        let answer = script(number, request).await;
        let (text, go_on) = match answer {
            Answer::Full(status, headers, body) => {
                let shown = if is_head { "" } else { body.as_str() };
                (format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n{shown}", body.len()), true)
            }
            Answer::CutShort(headers, body, missing) => {
                let announced = body.len() + missing;
                (format!("HTTP/1.1 200 x\r\n{headers}content-length: {announced}\r\n\r\n{body}"), false)
            }
            Answer::HangUp => return,
            Answer::Silence => std::future::pending().await,
        };
        if conn.write_all(text.as_bytes()).await.is_err() || !go_on {
            return;
        }
    }
}

/// The next request with its body read; none when the client is gone.
async fn read_request(conn: &mut Conn) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(conn.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let (line, headers) = head.split_once("\r\n")?;
    let headers = headers.to_ascii_lowercase();
    let len = headers.lines().find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; len.map_or(0, |len| len.trim().parse().expect("a length"))];
    conn.read_exact(&mut body).await.ok()?;
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request { line, headers })
}
