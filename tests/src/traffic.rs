//! Real traffic.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::namespace::Namespace;

/// Connects from `client` to a server at `address` on `server` once for each of `sizes`, and sends it so many bytes, which
/// come back after the last one.
pub fn exchange(server: &Namespace, client: &Namespace, address: SocketAddr, sizes: &[usize]) {
    let listener = server.run(|| TcpListener::bind(address)).expect("is free");
    thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming().take(sizes.len()) {
                let mut stream = stream.expect("a connection");
                let mut request = Vec::new();
                stream.read_to_end(&mut request).expect("a request");
                stream.write_all(&request).expect("is sent");
            }
        });
        client.run(|| sizes.iter().for_each(|&bytes| ask_tcp(address, bytes)));
    });
}

fn ask_tcp(server: SocketAddr, bytes: usize) {
    let mut stream = TcpStream::connect(server).expect("is heard");
    stream.write_all(&vec![1; bytes]).expect("is sent");
    stream.shutdown(Shutdown::Write).expect("is open");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert_eq!(answer.len(), bytes);
}
