//! The peers: two servers of common design, each written without avoidable cost.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::floor;

/// First argument with which this program starts itself as a server.
pub(crate) const SERVE: &str = ".serve";

/// Buffer of a connection in bytes; larger ones are not faster.
const BUFFER: usize = 64 * 1024;
/// Stack of a thread in bytes.
const STACK: usize = 64 * 1024;

/// Runs a server by name and prints its address. Returns only an error.
pub(crate) fn serve(words: &[String]) -> String {
    let run = || -> io::Result<()> {
        let listener = listen()?;
        eprintln!("serving on {}", listener.local_addr()?);
        match words.first().map(String::as_str) {
            Some("floor") => floor::serve(listener),
            Some("tokio") => tasks(listener),
            Some("threads") => threads(&listener),
            _ => Err(io::Error::other("no such server")),
        }
    };
    run().err().map_or_else(String::new, |error| error.to_string())
}

/// Opens a listener on a free port. Accepted connections inherit TCP_NODELAY.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Runs a task for each connection on one thread.
fn tasks(listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                // Not zeroed, so that an idle connection touches only one page.
                let mut buffer = Vec::with_capacity(BUFFER);
                while let Ok(1..) = stream.read_buf(&mut buffer).await {
                    if stream.write_all(&buffer).await.is_err() {
                        return;
                    }
                    buffer.clear();
                }
            });
        }
    })
}

/// Runs a blocking thread for each connection.
fn threads(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        thread::Builder::new().stack_size(STACK).spawn(move || {
            // An error only ends the connection.
            let _ = echo(stream);
        })?;
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}
