//! Work with a bar that shows how far it is, how fast it goes and when it will be done; what is lost
//! on the way is told above the bar.
//!
//! `cargo run --release --example progress`

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use indicatif::{ProgressBar, ProgressStyle};
use procession::Pool;

/// The steps that a number takes to get to 1.
fn steps(number: u64) -> u32 {
    if number == 1500 {
        // As a segmentation fault in some library would.
        std::process::abort();
    }
    let (mut at, mut steps) = (number, 0);
    while at > 1 {
        at = if at % 2 == 0 { at / 2 } else { 3 * at + 1 };
        steps += 1;
    }
    steps
}

#[procession::main]
fn main() -> procession::Result<()> {
    const COUNT: u64 = 2000;
    let bar = ProgressBar::new(COUNT).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta} {msg}")
            .expect("the template is right"),
    );
    let pool = Pool::new(2)?;
    let (mut longest, mut lost) = (0, 0);
    for result in pool.imap_unordered(steps, 1..=COUNT)? {
        bar.inc(1);
        match result {
            Ok(steps) if steps > longest => {
                longest = steps;
                bar.set_message(format!("longest: {longest}"));
            }
            Ok(_) => {}
            Err(error) => {
                lost += 1;
                bar.println(error.to_string());
            }
        }
    }
    bar.finish();

    // A map tells how far it is by a function.
    let bar = ProgressBar::new(1000);
    let progress = |so_far: procession::Progress| bar.set_position(so_far.done as u64);
    let all = pool.map_with_progress(steps, 1..=1000, progress)?;
    bar.finish();
    pool.join()?;
    println!("the longest has {longest} steps; {lost} was lost");
    assert_eq!((longest, lost, all.len()), (181, 1, 1000));
    Ok(())
}
