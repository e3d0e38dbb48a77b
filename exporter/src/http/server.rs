//! The server: bounded in connections and in how long each may take.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tower_http::add_extension::AddExtension;
use tracing::{debug, warn};

/// The most connections at a time; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to send the head of a request, or to send the next one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may last; then the client has to open a new one. It ends those that never read their answers.
const CONNECTION_LIFETIME: Duration = Duration::from_mins(10);
/// How long requests that are under way may take when the server is to end.
const DRAIN: Duration = Duration::from_secs(2);
/// How long to wait before accepting again when that failed, for want of file descriptors most of all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `router` on `listener` until `shutdown` is ready, then ends what is under way, within a bound.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let accept = async {
        loop {
            // The semaphore is never closed, so there is always a permit in the end.
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { break };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = graceful.watch(connection(stream, peer, router.clone()));
                    tokio::spawn(async move {
                        match timeout(CONNECTION_LIFETIME, connection).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => debug!(%peer, %error, "a connection ended in an error"),
                            Err(_) => debug!(%peer, "a connection has lasted long enough"),
                        }
                        drop(permit);
                    });
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

/// What answers the requests of one connection: they say whose they are.
type Service = TowerToHyperService<AddExtension<Router, ConnectInfo<SocketAddr>>>;

fn connection(stream: TcpStream, peer: SocketAddr, router: Router) -> http1::Connection<TokioIo<TcpStream>, Service> {
    let service = AddExtension::new(router, ConnectInfo(peer));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
}
