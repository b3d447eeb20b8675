//! A picture of the Mandelbrot set, computed by a pool in an array that all of its workers share:
//! nothing of it is ever copied or sent.
//!
//! `cargo run --release --example shared_array --features ndarray`

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it speaks to a person"
)]

use procession::{ArrayViews, Chunk, Pool, SharedVec};

const WIDTH: usize = 78;
const HEIGHT: usize = 32;

/// Computes some rows where they are.
fn paint(rows: Chunk<u16>) {
    let first = rows.range().start / WIDTH;
    // A worker that was killed here would leave the rows half painted, and the next to take them
    // would be told.
    let mut rows = rows.lock().expect("nobody has died over these rows");
    let shape = (rows.len() / WIDTH, WIDTH);
    let mut picture = rows.array_view_mut(shape).expect("whole rows");
    for ((row, column), steps) in picture.indexed_iter_mut() {
        let x = column as f64 / WIDTH as f64 * 3.2 - 2.3;
        let y = (first + row) as f64 / HEIGHT as f64 * 2.4 - 1.2;
        *steps = escape(x, y);
    }
}

fn escape(x: f64, y: f64) -> u16 {
    let (mut re, mut im) = (0.0_f64, 0.0_f64);
    for steps in 0..500 {
        if re * re + im * im > 4.0 {
            return steps;
        }
        (re, im) = (re * re - im * im + x, 2.0 * re * im + y);
    }
    500
}

#[procession::main]
fn main() -> procession::Result<()> {
    let chunks = SharedVec::<u16>::zeroed(WIDTH * HEIGHT)?.split_every(4 * WIDTH)?;
    let pool = Pool::new(2)?;
    pool.map(paint, chunks.iter())?;

    // From here on nobody can change it, and it can be sent to whoever wants to look.
    let picture = chunks.lock_all()?.freeze();
    let picture = picture.array_view((HEIGHT, WIDTH)).expect("as it was made");
    for row in picture.rows() {
        let line: String = row.iter().map(|&steps| shade(steps)).collect();
        println!("{}", line.trim_end());
    }
    Ok(())
}

fn shade(steps: u16) -> char {
    match steps {
        0..=2 => ' ',
        3..=5 => '.',
        6..=9 => ':',
        10..=19 => '+',
        20..=499 => '*',
        _ => '#',
    }
}
