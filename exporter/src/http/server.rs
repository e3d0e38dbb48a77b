//! The server: bounded in connections and in how long each may take. With TLS if that is configured, and then HTTP/2 too.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::{
    access::{Access, HasCertificate, Refusal},
    connections::{Connection, Connections},
};
use crate::config::web::tls::Tls;

/// How long a handshake of TLS may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request, or to send the next one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may last; then the client has to open a new one. It ends those that never read their answers.
const CONNECTION_LIFETIME: Duration = Duration::from_mins(10);
/// How many requests a connection of HTTP/2 may carry at once.
const MAX_STREAMS: u32 = 16;
/// The most bytes of a request's head, as HTTP/2 counts them (RFC 9113 section 6.5.2).
const MAX_HEAD: u32 = 32 << 10;
/// How long requests that are under way may take when the server is to end.
const DRAIN: Duration = Duration::from_secs(2);
/// How long to wait before accepting again when that failed, for want of file descriptors most of all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The first byte of every connection with TLS: that of a handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// What those get who do not speak it.
const PLAIN: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    This port speaks HTTPS, and the request came over HTTP.\n";

/// Why a connection ended that could have gone on.
#[derive(Debug, Error)]
enum ConnectionError {
    #[error("{0}")]
    Handshake(io::Error),
    #[error("it took too long")]
    SlowHandshake,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// Serves `router` on `listener` until `shutdown` is ready, then ends what is under way, within a bound. How, and whether with
/// TLS, `access` says; whom it lets in, `router` has to ask.
pub async fn serve(listener: TcpListener, router: Router, access: Access, shutdown: impl Future<Output = ()>) {
    let connections = Connections::new();
    let graceful = GracefulShutdown::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = match connections.admit(peer.ip()).await {
                        Ok(connection) => connection,
                        Err(refusal) => {
                            access.refusals().note(refusal, peer.ip().to_canonical(), "");
                            continue;
                        }
                    };
                    let served = Served { router: router.clone(), peer, connection };
                    tokio::spawn(served.run(stream, access.clone(), graceful.watcher()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        warn!("requests were still under way at the end");
    }
}

/// What is served on one connection.
struct Served {
    router: Router,
    peer: SocketAddr,
    connection: Arc<Connection>,
}

impl Served {
    /// Serves until the client has enough, or has had enough.
    async fn run(self, stream: TcpStream, access: Access, watcher: Watcher) {
        let (peer, connection) = (self.peer, Arc::clone(&self.connection));
        let tls = access.web().and_then(|web| web.tls.clone());
        let served = async {
            match tls {
                Some(tls) => self.over_tls(stream, &tls, watcher).await,
                None => self.http1(stream, false, watcher).await,
            }
        };
        tokio::select! {
            served = timeout(CONNECTION_LIFETIME, served) => match served {
                Ok(Ok(())) => {}
                Ok(Err(error @ (ConnectionError::Handshake(_) | ConnectionError::SlowHandshake))) => {
                    access.refusals().note(Refusal::Handshake, peer.ip().to_canonical(), &error.to_string());
                }
                Ok(Err(error)) => debug!(%peer, %error, "a connection ended in an error"),
                Err(_) => debug!(%peer, "a connection has lasted long enough"),
            },
            () = connection.is_unwanted() => debug!(%peer, "a connection had to make room"),
        }
    }

    async fn over_tls(self, stream: TcpStream, tls: &Tls, watcher: Watcher) -> Result<(), ConnectionError> {
        let handshake = timeout(HANDSHAKE_TIMEOUT, handshake(stream, tls)).await;
        let stream = match handshake {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(ConnectionError::Handshake(error)),
            Err(_) => return Err(ConnectionError::SlowHandshake),
        };
        let (_, session) = stream.get_ref();
        let has_certificate = tls.clients.verifies() && session.peer_certificates().is_some();
        if session.alpn_protocol() == Some(b"h2") {
            self.http2(stream, has_certificate, watcher).await
        } else {
            self.http1(stream, has_certificate, watcher).await
        }
    }

    async fn http1(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        has_certificate: bool,
        watcher: Watcher,
    ) -> Result<(), ConnectionError> {
        let service = service_fn(|request| self.answer(request, has_certificate));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        Ok(watcher.watch(connection).await?)
    }

    async fn http2(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        has_certificate: bool,
        watcher: Watcher,
    ) -> Result<(), ConnectionError> {
        let connection = Arc::clone(&self.connection);
        let served = Arc::new(self);
        let service = service_fn(move |request| {
            let served = Arc::clone(&served);
            async move { served.answer(request, has_certificate).await }
        });
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let served = pin!(watcher.watch(served));
        tokio::select! {
            served = served => Ok(served?),
            () = connection.is_idle() => Ok(()),
        }
    }

    /// Answers a request, which says whose it is.
    async fn answer(
        &self,
        request: Request<Incoming>,
        has_certificate: bool,
    ) -> Result<Response<Body>, std::convert::Infallible> {
        let answering = self.connection.answering();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(HasCertificate(has_certificate));
        let answer = self.router.clone().oneshot(request).await?;
        if !matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.connection.was_served();
        }
        drop(answering);
        Ok(answer)
    }
}

/// Shakes hands, or tells those that speak plain HTTP that this is not done here.
async fn handshake(mut stream: TcpStream, tls: &Tls) -> io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
        if first[0].is_ascii_uppercase() {
            stream.write_all(PLAIN).await?;
            stream.shutdown().await?;
        }
        return Ok(None);
    }
    TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream).await.map(Some)
}
