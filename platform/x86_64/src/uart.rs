//! The first serial port: the console.
//!
//! Output goes through a ring that is emptied at once as far as the device takes it and by its interrupt for the rest, so
//! a slow line does not hold up who writes, unless the ring is full. Input comes by interrupt. Before the interrupt is
//! set up both work by polling.
//!
//! [`emergency_print`] is the way out for reports of the machine's end: it needs nothing that could be broken or held.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::IER;
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::interrupts::without_interrupts;

const PORT: u16 = 0x3f8;
/// The interrupt line of the port on the ISA bus.
pub const ISA_IRQ: u8 = 4;
const OUTPUT_BYTES: usize = 1024;
const INPUT_BYTES: usize = 256;
/// How often the device is asked in one interrupt before the rest is left to the next one.
const ROUNDS_PER_INTERRUPT: usize = 64;

/// A queue of bytes in a fixed buffer. One slot stays empty.
struct Ring<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
}

impl<const N: usize> Ring<N> {
    const fn new() -> Self {
        Ring {
            bytes: [0; N],
            first: 0,
            len: 0,
        }
    }

    fn push(&mut self, byte: u8) -> bool {
        if self.len == N {
            return false;
        }
        self.bytes[(self.first + self.len) % N] = byte;
        self.len += 1;
        true
    }

    fn pop(&mut self) -> Option<u8> {
        let byte = *self.front().first()?;
        self.drop_front(1);
        Some(byte)
    }

    /// The first bytes, as many as lie in one piece.
    fn front(&self) -> &[u8] {
        let end = (self.first + self.len).min(N);
        &self.bytes[self.first..end]
    }

    fn drop_front(&mut self, count: usize) {
        self.first = (self.first + count) % N;
        self.len -= count;
    }
}

struct Serial {
    device: Option<Uart16550<PioBackend>>,
    output: Ring<OUTPUT_BYTES>,
    input: Ring<INPUT_BYTES>,
    /// The interrupt reaches us, so that output may be left to it.
    by_interrupt: bool,
}

static SERIAL: Mutex<Serial> = Mutex::new(Serial {
    device: None,
    output: Ring::new(),
    input: Ring::new(),
    by_interrupt: false,
});

/// What is called, from the interrupt, when a byte can be read: a `fn()` by its address, 0 for none.
static READABLE: AtomicUsize = AtomicUsize::new(0);

fn with<T>(body: impl FnOnce(&mut Serial) -> T) -> T {
    without_interrupts(|| body(&mut SERIAL.lock()))
}

fn configuration() -> Config {
    Config {
        baud_rate: BaudRate::Baud115200,
        ..Config::DEFAULT
    }
}

/// Finds the port and sets it up: 115,200 baud, 8 bits, no parity. Without one, output is dropped.
pub(crate) fn init() {
    // SAFETY: the port's registers are this module's alone, and it is set up once, here.
    let Ok(mut device) = (unsafe { Uart16550::new_port(PORT) }) else {
        return;
    };
    if device.init(configuration()).is_ok() {
        with(|serial| serial.device = Some(device));
    }
}

/// Leaves input, and output that the device does not take at once, to the interrupt from now on.
pub fn enable_interrupt() {
    with(|serial| {
        serial.by_interrupt = serial.device.is_some();
        if let Some(device) = &mut serial.device {
            device.enable_interrupts(IER::DATA_READY);
        }
    });
}

/// Serves the interrupt. It is edge-triggered: whatever the device wants must be done before this returns.
pub fn interrupt(_: usize) {
    let received = with(|serial| {
        let mut received = false;
        for _ in 0..ROUNDS_PER_INTERRUPT {
            received |= serial.receive();
            serial.send();
            let Some(device) = &mut serial.device else {
                break;
            };
            if device.isr().bits() & NOTHING_PENDING != 0 {
                break;
            }
        }
        received
    });
    if received {
        announce();
    }
}

/// Bit 0 of the interrupt status register: set when the device wants nothing (16550 data sheet, IIR).
const NOTHING_PENDING: u8 = 1;

fn announce() {
    let hook = READABLE.load(Ordering::Acquire);
    if hook != 0 {
        // SAFETY: stored by `on_readable` from a value of this very type.
        let hook: fn() = unsafe { core::mem::transmute::<usize, fn()>(hook) };
        hook();
    }
}

/// Has `hook` called, from the interrupt, whenever a byte becomes readable; once now if there is one.
pub fn on_readable(hook: fn()) {
    READABLE.store(hook as usize, Ordering::Release);
    if with(|serial| serial.input.len != 0) {
        hook();
    }
}

impl Serial {
    /// Takes what was typed; what does not fit is lost. Says whether there was anything.
    fn receive(&mut self) -> bool {
        let Some(device) = &mut self.device else {
            return false;
        };
        let mut any = false;
        for _ in 0..INPUT_BYTES {
            let Ok(byte) = device.try_receive_byte() else {
                break;
            };
            any |= self.input.push(byte);
        }
        any
    }

    /// Gives the device what it takes now, and asks for its interrupt if that was not all.
    fn send(&mut self) {
        let Some(device) = &mut self.device else {
            self.output = Ring::new();
            return;
        };
        loop {
            let sent = device.send_bytes(self.output.front());
            self.output.drop_front(sent);
            if sent == 0 {
                break;
            }
        }
        let waiting = self.output.len != 0;
        if !self.by_interrupt || waiting == device.config().interrupts.contains(IER::THR_EMPTY) {
            return;
        }
        if waiting {
            device.enable_interrupts(IER::THR_EMPTY);
        } else {
            device.disable_interrupts(IER::THR_EMPTY);
        }
    }
}

/// Writes all of `bytes`, a line feed as carriage return and line feed. Waits while the ring is full.
pub fn write(bytes: &[u8]) {
    for &byte in bytes {
        if byte == b'\n' {
            put(b'\r');
        }
        put(byte);
    }
    with(Serial::send);
}

fn put(byte: u8) {
    while !with(|serial| serial.output.push(byte)) {
        with(Serial::send);
        core::hint::spin_loop();
    }
}

/// Takes the next byte typed, if there is one.
pub fn read() -> Option<u8> {
    with(|serial| {
        if !serial.by_interrupt {
            serial.receive();
        }
        serial.input.pop()
    })
}

/// Waits until everything written has left.
pub fn flush() {
    while with(|serial| {
        serial.send();
        serial.output.len != 0
    }) {
        core::hint::spin_loop();
    }
}

/// Prints on a machine that is about to end: first what is still in the ring, then `text`, by polling. Works wherever it is
/// called from, even from an exception inside this module.
pub fn emergency_print(text: fmt::Arguments<'_>) {
    struct Emergency;
    impl Write for Emergency {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            write(text.as_bytes());
            Ok(())
        }
    }
    x86_64::instructions::interrupts::disable();
    if SERIAL.is_locked() {
        // SAFETY: there is one processor, and it runs this with interrupts off: whoever held the lock was interrupted by an
        // exception and will never go on.
        unsafe { SERIAL.force_unlock() };
    }
    with(|serial| serial.by_interrupt = false);
    flush();
    // Writing to the console cannot fail; what formats may, and then there is nobody to tell.
    let _ = Emergency.write_fmt(text);
    flush();
}

#[cfg(test)]
mod tests {
    use super::Ring;

    #[test]
    fn a_ring_gives_back_in_order_what_it_took_across_its_end() {
        let mut ring = Ring::<4>::new();
        for round in 0..10u8 {
            assert!(ring.push(round) && ring.push(round + 100));
            assert_eq!(
                (ring.pop(), ring.pop(), ring.pop()),
                (Some(round), Some(round + 100), None)
            );
            assert!(ring.push(7));
            assert_eq!(ring.pop(), Some(7));
        }
    }

    #[test]
    fn a_full_ring_takes_nothing_more_and_loses_nothing() {
        let mut ring = Ring::<3>::new();
        assert!(ring.push(1) && ring.push(2) && ring.push(3));
        assert!(!ring.push(4));
        ring.drop_front(1);
        assert!(ring.push(4));
        assert_eq!(ring.front(), [2, 3]);
    }
}
