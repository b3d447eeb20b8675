//! Converts files with a decoder that can't be trusted: each in a process of its own, so that the one
//! that crashes it, exhausts the memory or never ends costs itself and nothing else.
//!
//! PNG files are decoded by the crate `png`, as its documentation shows it: which a file can bring down by
//! the size that it claims to have (`bomb.png`). The other format's decoder is as faulty as decoders in
//! C get; some of the files below find it out.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::time::Duration;

use procession::{Bytes, Process, Stdio};
use serde::{Deserialize, Serialize};

/// A picture in shades of grey.
#[derive(Serialize, Deserialize)]
struct Picture {
    width: u32,
    height: u32,
    pixels: Bytes,
}

/// Runs in a process of its own.
fn convert(file: Bytes) -> Result<Picture, String> {
    if file.starts_with(b"\x89PNG") {
        decode_png(&file).map_err(|error| error.to_string())
    } else if let Some(body) = file.strip_prefix(b"OLD!") {
        Ok(faulty::decode(body))
    } else {
        Err("this is no picture".to_owned())
    }
}

fn decode_png(file: &[u8]) -> Result<Picture, png::DecodingError> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    // Of whatever size the file says: what one writes, and what ends the process.
    let mut pixels = vec![0; reader.output_buffer_size().unwrap_or(0)];
    let info = reader.next_frame(&mut pixels)?;
    let samples = info.color_type.samples();
    let colours = if samples < 3 { 1 } else { 3 };
    let grey = |pixel: &[u8]| {
        let sum: u32 = pixel[..colours].iter().map(|&byte| u32::from(byte)).sum();
        (sum / colours as u32) as u8
    };
    let pixels: Vec<u8> = pixels.chunks_exact(samples).map(grey).collect();
    Ok(Picture {
        width: info.width,
        height: info.height,
        pixels: pixels.into(),
    })
}

/// Stands for the library in C that one has to use.
mod faulty {
    #![allow(unsafe_code, reason = "that is what is wrong with it")]

    use super::Picture;

    pub(super) fn decode(body: &[u8]) -> Picture {
        match body.first() {
            // Follows an offset in the file without a look at it.
            // SAFETY: none. This crashes.
            Some(b'@') => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
            // Parts within parts within parts.
            Some(b'(') => println!("{}", descend(body, 0)),
            // A loop that the file keeps from ending.
            Some(b'~') => loop {
                std::hint::spin_loop();
            },
            // Believes the size that the file says it has.
            Some(b'#') => {
                let all = vec![1_u8; 100 << 30];
                println!("{} bytes", all.len());
            }
            Some(b'?') => panic!("a case that cannot happen"),
            Some(b'!') => std::process::exit(3),
            _ => {}
        }
        Picture {
            width: body.len() as u32,
            height: 1,
            pixels: body.into(),
        }
    }

    fn descend(body: &[u8], depth: u64) -> u64 {
        let room = std::hint::black_box([depth; 64]);
        if body.is_empty() {
            return room[0];
        }
        // Forgets to go on to the next byte.
        room[0] + descend(body, depth + 1) + room[63]
    }
}

fn a_png() -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 16, 9);
    encoder.set_color(png::ColorType::Rgb);
    let rows: Vec<u8> = (0..16 * 9 * 3).map(|byte| byte as u8).collect();
    let mut writer = encoder.write_header().expect("the header is right");
    writer
        .write_image_data(&rows)
        .expect("as many as there are");
    writer.finish().expect("there is memory");
    file
}

/// A hundred bytes that say they are a picture of 50,000 by 50,000.
fn a_bomb() -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 50_000, 50_000);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().expect("the header is right");
    let nothing = [0x78, 0x9c, 0x63, 0x00];
    writer
        .write_chunk(png::chunk::IDAT, &nothing)
        .expect("there is memory");
    drop(writer);
    file
}

#[procession::main]
fn main() -> procession::Result<()> {
    let cut = a_png()[..60].to_vec();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("holiday.png", a_png()),
        ("half.png", cut),
        ("bomb.png", a_bomb()),
        ("letter.txt", b"Dear Ada".to_vec()),
        ("good.old", b"OLD!just pixels".to_vec()),
        ("offset.old", b"OLD!@".to_vec()),
        ("nested.old", b"OLD!((((".to_vec()),
        ("endless.old", b"OLD!~".to_vec()),
        ("huge.old", b"OLD!#".to_vec()),
        ("odd.old", b"OLD!?".to_vec()),
        ("quits.old", b"OLD!!".to_vec()),
        ("again.png", a_png()),
    ];

    let mut running = Vec::new();
    for (name, file) in files {
        let process = Process::builder()
            .name(name)
            .memory_limit(512 << 20)
            .timeout(Duration::from_secs(5))
            .stdin(Stdio::null())
            .stderr(Stdio::piped()) // kept for the report
            .kill_on_drop(true) // should this program leave early
            .spawn(convert, Bytes::from(file))?;
        running.push(process);
    }

    let (mut converted, mut refused, mut lost) = (0, 0, 0);
    for process in running {
        let name = process.name().to_owned();
        let output = process.join_with_output();
        match output.result {
            Ok(Ok(picture)) => {
                converted += 1;
                let (width, height) = (picture.width, picture.height);
                let pixels = picture.pixels.len();
                println!("{name}: {width} x {height}, {pixels} pixels");
            }
            Ok(Err(why)) => {
                refused += 1;
                println!("{name}: refused: {why}");
            }
            Err(error) => {
                lost += 1;
                println!("{error}");
                let said = String::from_utf8_lossy(&output.stderr);
                if let Some(line) = said.lines().find(|line| !line.trim().is_empty()) {
                    println!("    it said: {line}");
                }
            }
        }
    }
    println!("{converted} converted, {refused} refused, {lost} lost; and this program is well");
    assert_eq!((converted, refused, lost), (3, 2, 7));
    Ok(())
}
