//! A service on tokio that gives its heavy work to a pool of processes: a request that crashes its
//! worker costs that request alone, and the service goes on answering the others.
//!
//! `cargo run --example tokio_service --features tokio`

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it speaks to a person"
)]

use std::sync::Arc;

use procession::{Error, Pool};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What takes long, and may go wrong in ways that no `catch_unwind` catches.
fn factor(number: u64) -> Vec<u64> {
    if number == 13 {
        // As a segmentation fault in some library would.
        std::process::abort();
    }
    let (mut rest, mut divisor, mut factors) = (number, 2, Vec::new());
    while divisor * divisor <= rest {
        while rest % divisor == 0 {
            factors.push(divisor);
            rest /= divisor;
        }
        divisor += 1;
    }
    if rest > 1 {
        factors.push(rest);
    }
    factors
}

async fn answer(pool: &Pool, line: &str) -> String {
    let Ok(number) = line.trim().parse::<u64>() else {
        return "a number, please".into();
    };
    let result = match pool.apply_async(factor, number) {
        Ok(task) => task.get_async().await,
        Err(error) => Err(error),
    };
    match result {
        Ok(factors) => format!("{number} = {factors:?}"),
        Err(error) if error.is_worker_lost() => format!("{number}: sorry, {error}"),
        Err(error) => format!("{number}: {error}"),
    }
}

async fn serve(pool: Arc<Pool>, stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let text = answer(&pool, &line).await;
        write.write_all(format!("{text}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn ask(address: std::net::SocketAddr, numbers: &[u64]) -> std::io::Result<()> {
    let (read, mut write) = TcpStream::connect(address).await?.into_split();
    let mut lines = BufReader::new(read).lines();
    for number in numbers {
        write.write_all(format!("{number}\n").as_bytes()).await?;
        if let Some(line) = lines.next_line().await? {
            println!("{line}");
        }
    }
    Ok(())
}

// The processes first, the runtime after them: a child starts at `main` and ends before it has one.
#[procession::main]
fn main() -> procession::Result<()> {
    let pool = Arc::new(Pool::new(2)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime starts");
    let done: std::io::Result<()> = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&pool), stream));
            }
        });
        let (one, two) = tokio::join!(
            ask(address, &[1_000_003, 13, 60]),
            ask(address, &[982_451_653 * 2, 97])
        );
        server.abort();
        one.and(two)
    });
    if let Err(error) = done {
        eprintln!("the network failed: {error}");
    }
    Ok::<(), Error>(())
}
