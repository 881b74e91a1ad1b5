//! What is measured: programs' system calls on files `name-NNNNN` of a directory.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::Outcome;

/// Median time of opening, reading and closing one file that was read before.
pub fn open_read_close(dir: &Path, times: usize) -> Outcome<Duration> {
    let file = dir.join("name-00000");
    let mut buffer = vec![0; 4096];
    read_once(&file, &mut buffer)?;
    median_of(times, || read_once(&file, &mut buffer))
}

fn read_once(file: &Path, buffer: &mut [u8]) -> Outcome<()> {
    let mut file = File::open(file)?;
    while file.read(buffer)? > 0 {}
    Ok(())
}

/// Median time of a stat of a file that was read before.
pub fn stat(dir: &Path, times: usize) -> Outcome<Duration> {
    let file = dir.join("name-00000");
    read_once(&file, &mut vec![0; 4096])?;
    std::fs::metadata(&file)?;
    median_of(times, || {
        std::fs::metadata(&file)?;
        Ok(())
    })
}

fn median_of(times: usize, mut done: impl FnMut() -> Outcome<()>) -> Outcome<Duration> {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let begin = Instant::now();
        done()?;
        taken.push(begin.elapsed());
    }
    taken.sort_unstable();
    taken.get(times / 2).copied().ok_or_else(|| "nothing was measured".into())
}

/// Operations a second of so many threads that open, read and close a file each.
pub fn throughput(dir: &Path, clients: usize, each: usize) -> Outcome<f64> {
    let barrier = Barrier::new(clients + 1);
    let elapsed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let (file, barrier) = (dir.join(format!("name-{client:05}")), &barrier);
                scope.spawn(move || -> Result<(), String> {
                    let mut buffer = vec![0; 4096];
                    let warm = read_once(&file, &mut buffer).map_err(|error| error.to_string());
                    barrier.wait();
                    warm?;
                    for _ in 0..each {
                        read_once(&file, &mut buffer).map_err(|error| error.to_string())?;
                    }
                    Ok(())
                })
            })
            .collect();
        barrier.wait();
        let begin = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| "a client panicked".to_owned())??;
        }
        Ok::<_, String>(begin.elapsed())
    })?;
    Ok((clients * each) as f64 / elapsed.as_secs_f64())
}

/// Time of a program that lists the directory.
pub fn list(dir: &Path, flags: &[&str]) -> Outcome<Duration> {
    let begin = Instant::now();
    let status = Command::new("ls").args(flags).arg(dir).stdout(Stdio::null()).status()?;
    let taken = begin.elapsed();
    if !status.success() {
        return Err("ls failed".into());
    }
    Ok(taken)
}

/// Reads every file once.
pub fn read_all(dir: &Path, files: usize) -> Outcome<Duration> {
    let mut buffer = vec![0; 4096];
    let begin = Instant::now();
    for number in 0..files {
        read_once(&dir.join(format!("name-{number:05}")), &mut buffer)?;
    }
    Ok(begin.elapsed())
}
