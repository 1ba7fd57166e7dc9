//! Many clients, few threads.
//!
//! Each worker waits on one event queue for the next client that can get on, takes it as far as it
//! gets without waiting for the network, and waits again. A worker may wait for the disk; then
//! the others go on.
//!
//! Lock order: the workers' turns, a client's connection, the table of clients.

use crate::connection::{Connection, Next};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rump::net::{TcpListener, TcpStream};
use rump::poll::{EventQueue, Events, Watch};
use rump::sync::{Mutex, RwLock};
use rump::{Errno, Instant, thread, time};
use rumpkern::kmem::Room;

/// Key of the listening socket in the event queue; clients have their slot's number.
const LISTENER: u64 = u64::MAX;

/// How often connections that have lasted too long are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Connections accepted before clients get their turn again.
const ACCEPT_MAX: usize = 32;

/// Clients beyond the most that are still told 503; others are dropped.
const REFUSALS_MAX: usize = 16;

/// A pause before accepting again when the kernel has no memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that is served, absolute.
    pub root: Vec<u8>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Threads: how many requests may wait for the disk at once.
    pub workers: usize,
    /// The most clients at once; more get 503.
    pub clients_max: usize,
}

/// A server, and what its workers share.
pub struct Server {
    options: Options,
    listener: TcpListener,
    queue: EventQueue,
    _listener_watch: Watch,
    clients: Mutex<Clients>,
    /// Held shared by each worker that is at work, files and all.
    turns: RwLock<()>,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Clients {
    slots: Vec<Option<Arc<Client>>>,
    count: usize,
    next_sweep: Option<Instant>,
}

struct Client {
    connection: Mutex<Connection>,
    /// Its registration with the event queue; gone when it has ended.
    watch: Mutex<Option<Watch>>,
}

impl Server {
    /// Starts to listen.
    ///
    /// # Errors
    /// `EADDRINUSE`, `ENOMEM` and what else a socket may say.
    pub fn new(options: Options) -> Result<Arc<Server>, Errno> {
        let listener = TcpListener::bind(options.address)?;
        listener.set_nonblocking(true)?;
        let queue = EventQueue::new()?;
        let watch = queue.watch(listener.file().clone(), LISTENER, Events::READABLE)?;
        let server = Server {
            options,
            listener,
            queue,
            _listener_watch: watch,
            clients: Mutex::new(Clients::default()),
            turns: RwLock::new(()),
            stopped: AtomicBool::new(false),
        };
        Ok(Arc::new(server))
    }

    /// Serves until it is stopped: starts the workers and is one of them.
    ///
    /// # Errors
    /// `EAGAIN` if the host has no thread left for the workers.
    pub fn run(self: &Arc<Server>) -> Result<(), Errno> {
        for _ in 1..self.options.workers {
            let server = self.clone();
            thread::spawn("httpd", move || server.work())?;
        }
        self.work();
        Ok(())
    }

    /// Ends every connection, whatever it is at, and takes no more. When this returns no file is open any more; what was being
    /// made under a hidden name has not got its own.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // A turn has an end, and who takes one now sees that there is nothing more to do.
        let _nobody_works = self.turns.write();
        let slots = self.clients.lock().slots.len();
        for slot in 0..slots {
            let client = self.clients.lock().get(slot);
            if let Some(client) = client {
                client.connection.lock().abandon();
                self.end(slot, &client);
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// How many clients there are now.
    pub fn clients(&self) -> usize {
        self.clients.lock().count
    }

    fn work(&self) {
        let mut events = Vec::new();
        loop {
            let deadline = time::now() + SWEEP;
            self.queue.wait(&mut events, 1, Some(deadline));
            let _turn = self.turns.read();
            if self.is_stopped() {
                return;
            }
            for event in events.drain(..) {
                match event.key {
                    LISTENER => self.accept(),
                    slot => self.serve(slot as usize),
                }
            }
            self.sweep();
        }
    }

    fn accept(&self) {
        for _ in 0..ACCEPT_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(Errno::EAGAIN) => return,
                // The client went away before it was its turn.
                Err(Errno::ECONNABORTED) => {}
                Err(errno) => {
                    // Connections wait in the listen queue until there is room again.
                    log::warn!("fileserver: accept: {errno}");
                    thread::sleep(ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream) {
        let count = self.clients.lock().count;
        let full = count >= self.options.clients_max && !self.end_one_idle();
        if full && count >= self.options.clients_max + REFUSALS_MAX {
            // Not even room to say so: dropping the stream resets the connection.
            return;
        }
        if let Err(errno) = self.keep(stream, full) {
            log::warn!("fileserver: no room for a client: {errno}");
        }
    }

    fn keep(&self, stream: TcpStream, refused: bool) -> Result<(), Errno> {
        stream.set_nonblocking(true)?;
        let file = stream.file().clone();
        let mut connection = Connection::new(stream, time::now());
        let mut interest = Events::READABLE;
        if refused {
            connection.refuse(time::wall().seconds);
            interest = Events::WRITABLE;
        }
        let client = Arc::new(Client {
            connection: Mutex::new(connection),
            watch: Mutex::new(None),
        });
        // Who serves it at once finds its registration in place, or what he wants to wait for next is lost.
        let _not_yet = client.connection.lock();
        let slot = self.clients.lock().insert(client.clone())?;
        match self.queue.watch(file, slot as u64, interest) {
            Ok(watch) => {
                *client.watch.lock() = Some(watch);
                Ok(())
            }
            Err(errno) => {
                self.clients.lock().remove(slot, &client);
                Err(errno)
            }
        }
    }

    /// Takes a client as far as it gets.
    fn serve(&self, slot: usize) {
        let Some(client) = self.clients.lock().get(slot) else {
            return;
        };
        // Another worker is at it, and will look again itself.
        let Some(mut connection) = client.connection.try_lock() else {
            return;
        };
        client.set_interest(Events::empty());
        let wall = time::wall().seconds;
        // Said before another worker can take it further, or this would be put over what he has to wait for.
        match connection.advance(&self.options.root, time::now(), wall) {
            Next::Readable => client.set_interest(Events::READABLE),
            Next::Writable => client.set_interest(Events::WRITABLE),
            Next::Turn => client.set_interest(Events::READABLE | Events::WRITABLE),
            Next::Closed => {
                drop(connection);
                self.end(slot, &client);
            }
        }
    }

    fn end(&self, slot: usize, client: &Arc<Client>) {
        let watch = client.watch.lock().take();
        drop(watch);
        self.clients.lock().remove(slot, client);
    }

    /// Ends connections that have lasted too long, once a while.
    fn sweep(&self) {
        let now = time::now();
        {
            let mut clients = self.clients.lock();
            if clients.next_sweep.is_some_and(|next| now < next) {
                return;
            }
            clients.next_sweep = Some(now + SWEEP);
        }
        self.end_where(|connection| connection.has_expired(now));
    }

    /// Ends the connection that has been idle for longest, to make room. Answers whether there was one.
    fn end_one_idle(&self) -> bool {
        let mut longest: Option<(Instant, usize)> = None;
        self.each(|slot, connection| {
            let since = connection.active();
            if connection.is_idle() && longest.is_none_or(|(other, _)| since < other) {
                longest = Some((since, slot));
            }
        });
        let Some((since, slot)) = longest else {
            return false;
        };
        let Some(client) = self.clients.lock().get(slot) else {
            return false;
        };
        let still = client
            .connection
            .try_lock()
            .is_some_and(|connection| connection.is_idle() && connection.active() == since);
        if still {
            self.end(slot, &client);
        }
        still
    }

    fn end_where(&self, ends: impl Fn(&Connection) -> bool) {
        let mut ended = Vec::new();
        self.each(|slot, connection| {
            // Without memory to remember it, it is found again by the next sweep.
            if ends(connection) && ended.room(1).is_ok() {
                ended.push(slot);
            }
        });
        for slot in ended {
            // Not in the condition: the table would stay locked, and ending a connection takes it out of there.
            let client = self.clients.lock().get(slot);
            if let Some(client) = client {
                self.end(slot, &client);
            }
        }
    }

    /// Shows each connection that no worker is at.
    fn each(&self, mut show: impl FnMut(usize, &Connection)) {
        let slots = self.clients.lock().slots.len();
        for slot in 0..slots {
            let client = self.clients.lock().get(slot);
            if let Some(client) = client
                && let Some(connection) = client.connection.try_lock()
            {
                show(slot, &connection);
            }
        }
    }
}

impl Client {
    fn set_interest(&self, interest: Events) {
        if let Some(watch) = &*self.watch.lock() {
            watch.set_interest(interest);
        }
    }
}

impl Clients {
    fn insert(&mut self, client: Arc<Client>) -> Result<usize, Errno> {
        let free = self.slots.iter().position(Option::is_none);
        let slot = match free {
            Some(slot) => slot,
            None => {
                self.slots.room(1)?;
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[slot] = Some(client);
        self.count += 1;
        Ok(slot)
    }

    fn get(&self, slot: usize) -> Option<Arc<Client>> {
        self.slots.get(slot)?.clone()
    }

    /// Forgets `client`, if it is the one in that slot.
    fn remove(&mut self, slot: usize, client: &Arc<Client>) {
        if let Some(place) = self.slots.get_mut(slot)
            && place
                .as_ref()
                .is_some_and(|there| Arc::ptr_eq(there, client))
        {
            *place = None;
            self.count -= 1;
        }
    }
}
