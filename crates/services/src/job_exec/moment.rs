//! Waits that end at their moment.
//!
//! The runtime's own timers are good to a millisecond or two, which is what the shortest of mock
//! jobs take in all.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Waits longer than this need no timer of their own.
const SHORT: Duration = Duration::from_millis(10);

/// A timer of the kernel's.
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits until then. Cancel safe.
pub(super) fn sleep_until(until: Instant) -> impl Future<Output = ()> {
    let left = until.saturating_duration_since(Instant::now());
    // Of no length it would never end.
    let exact = (!left.is_zero() && left < SHORT).then(|| start(left));
    async move {
        if let Some(Ok(timer)) = exact
            && timer.readable().await.is_ok()
        {
            return;
        }
        // A long wait, or there is no descriptor for it.
        tokio::time::sleep_until(until).await;
    }
}

#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
fn start(left: Duration) -> io::Result<AsyncFd<Timer>> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
    let expiration = Expiration::OneShot(left.into());
    timer.set(expiration, TimerSetTimeFlags::empty())?;
    // SAFETY: the timer owns its descriptor, which stays open and the same until it is dropped.
    Ok(unsafe { AsyncFd::register(Timer(timer)) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_end_once_their_moment_has_come() {
        for micros in [0, 1, 700, 12_000] {
            let until = Instant::now() + Duration::from_micros(micros);
            sleep_until(until).await;
            assert!(Instant::now() >= until, "{micros}");
        }
        sleep_until(Instant::now() - Duration::from_secs(1)).await;
    }
}
