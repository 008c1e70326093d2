//! Serves a store over the Trustless Gateway (<https://specs.ipfs.tech/http-gateways/trustless-gateway/>), so that any IPFS client can
//! fetch and verify: `GET` and `HEAD` of `/ipfs/{cid}` as a raw block or as a CAR.
//!
//! | status | when |
//! |---|---|
//! | 304 | `If-None-Match` names what would be sent |
//! | 400 | not a CIDv1 in base32 with sha2-256 and codec raw or dag-pb; an unknown `dag-scope` |
//! | 404 | the block is not in the store; a path below a CID |
//! | 406 | neither raw nor CAR version 1 was asked for |
//! | 500 | the block is damaged here, or the disk failed; the log says more |
//! | 501 | `entity-bytes` |
//! | 503 | too many requests at once, of this client or of all |
//!
//! Serve it with [`service`], so that it knows its clients apart: over a bare [`router`] only the bounds for all of them hold.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path, Query, State, connect_info::IntoMakeServiceWithConnectInfo},
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::{Bytes, BytesMut};
use futures::stream;
use quern_types::ContentId;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

use crate::{ContentStore, StoreError, car};

const RAW: &str = "application/vnd.ipld.raw";
const CAR: &str = "application/vnd.ipld.car";
const CAR_TYPE: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=n";
const IMMUTABLE: &str = "public, max-age=29030400, immutable";

/// Requests answered at once; each holds at most one block, or one node per level, and what is on its way to the client.
const MAX_REQUESTS: usize = 256;
/// Of these, for one address: who reads slowly holds up itself.
const MAX_REQUESTS_OF_ONE: usize = 32;
/// A client that takes nothing for so long is cut off.
const STALL: Duration = Duration::from_secs(30);
/// A client that takes less than this, in bytes per second over the whole answer, is cut off too.
const LEAST_RATE: u64 = 16 << 10;
/// Bytes on their way between the store and the connection; all that a client holds of ours after it was cut off.
const PIPE_BYTES: usize = 64 << 10;
/// Bytes handed to the connection at once.
const PART_BYTES: usize = 64 << 10;

/// The gateway over `store`, for `axum::serve`: a client's address bounds what it can hold at once.
pub fn service(store: Arc<dyn ContentStore>) -> IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
    router(store).into_make_service_with_connect_info()
}

/// The gateway over `store`. Give it a store that holds content itself: over one that fetches, every visitor could make this machine fetch
/// anything.
pub fn router(store: Arc<dyn ContentStore>) -> Router {
    let gateway = Gateway { store, requests: Arc::new(Semaphore::new(MAX_REQUESTS)), clients: Clients::default() };
    Router::new().route("/ipfs/{cid}", get(serve)).route("/ipfs/{cid}/{*path}", get(below)).with_state(gateway)
}

#[derive(Clone)]
struct Gateway {
    store: Arc<dyn ContentStore>,
    requests: Arc<Semaphore>,
    clients: Clients,
}

/// Requests under way by client.
#[derive(Clone, Debug, Default)]
struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One request of a client, until it is dropped.
#[derive(Debug)]
struct Turn {
    clients: Clients,
    client: IpAddr,
}

impl Clients {
    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more request of this client; `None` where it has too many.
    fn turn(&self, client: IpAddr) -> Option<Turn> {
        let client = client.to_canonical();
        let mut held = self.held();
        let under_way = held.entry(client).or_default();
        if *under_way == MAX_REQUESTS_OF_ONE {
            return None;
        }
        *under_way += 1;
        Some(Turn { clients: self.clone(), client })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut held = self.clients.held();
        if let Some(under_way) = held.get_mut(&self.client) {
            *under_way -= 1;
            if *under_way == 0 {
                held.remove(&self.client);
            }
        }
    }
}

/// What a request holds until it is answered whole.
#[derive(Debug)]
struct Held {
    _permit: OwnedSemaphorePermit,
    _turn: Option<Turn>,
}

#[derive(serde::Deserialize)]
struct Asked {
    format: Option<String>,
    #[serde(rename = "dag-scope")]
    dag_scope: Option<String>,
    #[serde(rename = "entity-bytes")]
    entity_bytes: Option<String>,
}

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Block,
    Car(Scope),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Block,
    // `all` and `entity`, which for a file are the same.
    All,
}

type Refusal = (StatusCode, String);

fn refuse<T>(status: StatusCode, why: impl Into<String>) -> Result<T, Refusal> {
    Err((status, why.into() + "\n"))
}

async fn below() -> Response {
    (StatusCode::NOT_FOUND, "only whole blobs are kept here: ask for /ipfs/{cid}\n").into_response()
}

async fn serve(
    State(gateway): State<Gateway>,
    Path(cid): Path<String>,
    Query(asked): Query<Asked>,
    method: Method,
    headers: HeaderMap,
    extensions: Extensions,
) -> Response {
    let client = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    match answer(gateway, &cid, &asked, &method, &headers, client).await {
        Ok(response) => response,
        Err((status, why)) => {
            let headers = [(header::CACHE_CONTROL, "no-store"), (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")];
            (status, headers, why).into_response()
        }
    }
}

async fn answer(
    gateway: Gateway,
    cid: &str,
    asked: &Asked,
    method: &Method,
    headers: &HeaderMap,
    client: Option<IpAddr>,
) -> Result<Response, Refusal> {
    let id: ContentId = cid.parse().or_else(|error| refuse(StatusCode::BAD_REQUEST, format!("{error}")))?;
    let form = form(asked, headers)?;
    let busy = |whose: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("too many requests{whose} at once, ask again\n"));
    let turn = client.map(|client| gateway.clients.turn(client).ok_or_else(|| busy(" of yours"))).transpose()?;
    let permit = gateway.requests.clone().try_acquire_owned().map_err(|_| busy(""))?;
    let held = Held { _permit: permit, _turn: turn };
    let (kind, file_name, etag) = match form {
        Form::Block => (RAW, format!("{id}.bin"), format!("\"{id}.raw\"")),
        Form::Car(Scope::All) => (CAR_TYPE, format!("{id}.car"), format!("\"{id}.car\"")),
        Form::Car(Scope::Block) => (CAR_TYPE, format!("{id}.car"), format!("\"{id}.block.car\"")),
    };
    let block = gateway.store.get_block(id).await.or_else(|error| failed(id, &error))?;
    let unchanged = matches(headers, &etag);
    let status = if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let length = block.len();
    let body = if unchanged || method == Method::HEAD { Body::empty() } else { body(gateway.store, id, form, block, held) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let set = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file_name}\"")),
        (header::CACHE_CONTROL, IMMUTABLE.to_owned()),
        (header::ETAG, etag),
        (header::VARY, "accept".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned()),
        (header::HeaderName::from_static("x-ipfs-path"), format!("/ipfs/{id}")),
        (header::HeaderName::from_static("x-ipfs-roots"), id.to_string()),
    ];
    if form == Form::Block && !unchanged {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    for (name, value) in set {
        let value = HeaderValue::try_from(value).or_else(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

fn failed<T>(id: ContentId, error: &StoreError) -> Result<T, Refusal> {
    if error.is_absent() {
        return refuse(StatusCode::NOT_FOUND, format!("{id} is not here"));
    }
    // Paths and addresses stay in the log.
    tracing::error!(%id, %error, "gateway.failed");
    refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{id} cannot be read here"))
}

/// `format` in the query goes before the `Accept` header, as the specification has it.
fn form(asked: &Asked, headers: &HeaderMap) -> Result<Form, Refusal> {
    if asked.entity_bytes.is_some() {
        return refuse(StatusCode::NOT_IMPLEMENTED, "entity-bytes is not served here; leave it out and cut the file yourself");
    }
    let scope = match asked.dag_scope.as_deref() {
        None | Some("all" | "entity") => Scope::All,
        Some("block") => Scope::Block,
        Some(other) => return refuse(StatusCode::BAD_REQUEST, format!("dag-scope is all, entity or block, not {other:?}")),
    };
    match asked.format.as_deref() {
        Some("raw") => return Ok(Form::Block),
        Some("car") => return Ok(Form::Car(scope)),
        Some(_) => {}
        None => {
            let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            for range in accepted.flat_map(|value| value.split(',')) {
                if let Some(form) = accept(range, scope) {
                    return Ok(form);
                }
            }
        }
    }
    refuse(StatusCode::NOT_ACCEPTABLE, format!("only ?format=raw or car, or Accept: {RAW} or {CAR}, is served here"))
}

/// The form that one media range of an `Accept` header asks for.
fn accept(range: &str, scope: Scope) -> Option<Form> {
    let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
    let kind = parts.next()?;
    let mut fits = true;
    for part in parts {
        match part.split_once('=') {
            Some(("q", weight)) => fits &= weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0),
            Some(("version", version)) => fits &= version == "1",
            Some(("order", order)) => fits &= matches!(order, "dfs" | "unk"),
            // Duplicates are optional where they are asked for: a client that takes them takes a CAR without.
            _ => {}
        }
    }
    match kind.as_str() {
        RAW if fits => Some(Form::Block),
        CAR if fits => Some(Form::Car(scope)),
        _ => None,
    }
}

fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|value| value.split(',')).map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// Streams the block or the CAR. Where a block turns out to be missing or damaged on the way, the connection breaks off, so that the client
/// cannot take what it has got for the whole. Keeps what is `held` until all is written or the client has lost our patience.
fn body(store: Arc<dyn ContentStore>, id: ContentId, form: Form, block: Bytes, held: Held) -> Body {
    let (reader, writer) = duplex(PIPE_BYTES);
    let exporting = tokio::spawn(async move {
        let _held = held;
        let mut writer = Hurried::new(writer, STALL, LEAST_RATE);
        match form {
            Form::Block => {
                let sent = writer.write_all(&block).await;
                sent.map(|()| block.len() as u64).map_err(|source| StoreError::Stream { action: "send a block", source })
            }
            Form::Car(Scope::Block) => car::export_block(&*store, id, &mut writer).await,
            Form::Car(Scope::All) => car::export(&*store, id, &mut writer).await,
        }
    });
    Body::from_stream(stream::try_unfold((reader, exporting), move |(mut reader, exporting)| async move {
        let mut part = BytesMut::with_capacity(PART_BYTES);
        if reader.read_buf(&mut part).await? > 0 {
            return Ok(Some((part.freeze(), (reader, exporting))));
        }
        // The writer is gone: because all is written, or because it failed.
        match exporting.await.map_err(io::Error::other)? {
            Ok(_) => Ok(None),
            Err(error) => {
                tracing::error!(%id, %error, "gateway.broken_off");
                Err(io::Error::other(error))
            }
        }
    }))
}

/// A pipe whose writes fail where the reader takes nothing for `patience`, or less than `rate` bytes per second beyond the first `patience`: a
/// client that reads a byte now and then must not hold a request for ever.
struct Hurried {
    pipe: DuplexStream,
    patience: Duration,
    rate: u64,
    began: Instant,
    written: u64,
    patience_ends: Pin<Box<Sleep>>,
}

impl Hurried {
    fn new(pipe: DuplexStream, patience: Duration, rate: u64) -> Self {
        Self { pipe, patience, rate, began: Instant::now(), written: 0, patience_ends: Box::pin(sleep(patience)) }
    }
}

impl AsyncWrite for Hurried {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.pipe).poll_write(context, bytes) {
            Poll::Ready(written) => {
                if let Ok(written) = written {
                    self.written += written as u64;
                }
                // Of the next write: what was taken so far earns its time.
                let earned = self.began + self.patience + Duration::from_millis(self.written.saturating_mul(1000) / self.rate);
                let ends = earned.min(Instant::now() + self.patience);
                self.patience_ends.as_mut().reset(ends);
                Poll::Ready(written)
            }
            Poll::Pending => self.patience_ends.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::MemoryStore;

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_our_patience() {
        let (_reader, writer) = duplex(10);
        let mut writer = Hurried::new(writer, Duration::from_millis(20), 1 << 20);
        writer.write_all(&[0; 10]).await.unwrap();
        let error = writer.write_all(&[0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_is_served() {
        let (mut reader, writer) = duplex(10);
        let mut writer = Hurried::new(writer, Duration::from_millis(1000), 100);
        let writing = tokio::spawn(async move { writer.write_all(&[7; 200]).await });
        let mut read = Vec::new();
        while read.len() < 200 {
            // A small part of the patience for each piece, more than the patience in all.
            sleep(Duration::from_millis(60)).await;
            reader.read_buf(&mut read).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_request_too_many_is_asked_to_come_again() {
        let store = MemoryStore::new();
        let id = store.put(b"flour").await.unwrap().to_string();
        let gateway = Gateway { store: Arc::new(store), requests: Arc::new(Semaphore::new(1)), clients: Clients::default() };
        let asked = Asked { format: Some("raw".into()), dag_scope: None, entity_bytes: None };
        let headers = HeaderMap::new();
        let ask = || answer(gateway.clone(), &id, &asked, &Method::GET, &headers, None);
        let under_way = gateway.requests.clone().try_acquire_owned().unwrap();
        assert_eq!(ask().await.unwrap_err().0, StatusCode::SERVICE_UNAVAILABLE);
        drop(under_way);
        let body = ask().await.unwrap().into_body();
        assert_eq!(axum::body::to_bytes(body, 100).await.unwrap(), b"flour"[..]);
        assert_eq!(gateway.requests.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_enemy_that_reads_a_byte_now_and_then_loses_our_patience_too() {
        let (mut reader, writer) = duplex(10);
        let mut writer = Hurried::new(writer, Duration::from_secs(30), 1024);
        let writing = tokio::spawn(async move { writer.write_all(&[7; 1 << 20]).await });
        let began = Instant::now();
        while !writing.is_finished() {
            sleep(Duration::from_secs(20)).await;
            let mut byte = [0];
            let _ = reader.read(&mut byte).await;
        }
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn an_enemy_with_many_requests_leaves_room_for_others() {
        let store = MemoryStore::new();
        let id = store.put(b"flour").await.unwrap().to_string();
        let gateway = Gateway { store: Arc::new(store), requests: Arc::new(Semaphore::new(MAX_REQUESTS)), clients: Clients::default() };
        let asked = Asked { format: Some("raw".into()), dag_scope: None, entity_bytes: None };
        let headers = HeaderMap::new();
        let ask = |client: &str| answer(gateway.clone(), &id, &asked, &Method::GET, &headers, Some(client.parse().unwrap()));
        let turn = |client: &str| gateway.clients.turn(client.parse().unwrap());
        let turns: Vec<_> = (0..MAX_REQUESTS_OF_ONE).filter_map(|_| turn("10.0.0.1")).collect();
        assert_eq!(turns.len(), MAX_REQUESTS_OF_ONE);
        for same in ["10.0.0.1", "::ffff:10.0.0.1"] {
            assert_eq!(ask(same).await.unwrap_err().0, StatusCode::SERVICE_UNAVAILABLE, "{same}");
        }
        assert_eq!(ask("10.0.0.2").await.unwrap().status(), StatusCode::OK);
        drop(turns);
        assert_eq!(ask("10.0.0.1").await.unwrap().status(), StatusCode::OK);
    }
}
