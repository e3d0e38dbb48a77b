//! Connections of the receiver: plain ones and those of TLS, of HTTP/1.1 and of HTTP/2, as they come.

use std::sync::Arc;

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;

use super::state::Shared;

/// What a request knows of its connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// How many there were, with this one.
    pub(super) number: usize,
    ended: Arc<Notify>,
}

impl Connection {
    /// Closes it, whatever is under way.
    pub(super) fn hang_up(&self) {
        self.ended.notify_one();
    }
}

/// Answers whoever connects to `listener` by `router`, for ever.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) {
    let listener = TcpListener::from_std(listener).expect("does not block");
    loop {
        let (stream, _) = listener.accept().await.expect("there are descriptors left");
        let connection = Connection { number: shared.count_connection(), ended: Arc::default() };
        let router = router.clone().layer(Extension(connection.clone()));
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let serve = async {
                match tls {
                    None => serve_stream(stream, router).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => serve_stream(stream, router).await,
                        Err(error) => shared.count_stranger(&error),
                    },
                }
            };
            tokio::select! {
                () = serve => {}
                () = connection.ended.notified() => {}
            }
        });
    }
}

async fn serve_stream(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    // That it ends in an error is for its client to notice.
    Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
        .ok();
}
