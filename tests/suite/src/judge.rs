//! What cases are written with: they answer what is otherwise than it should be, rather than panic, so that the others go on.

/// The value of a `Result` that must be `Ok`.
macro_rules! fine {
    ($call:expr) => {
        match $call {
            Ok(value) => value,
            Err(error) => {
                return Err(alloc::format!(
                    "{}:{}: {}: {error:?}",
                    file!(),
                    line!(),
                    stringify!($call)
                ));
            }
        }
    };
}

/// Two values must be equal.
macro_rules! same {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) if *left == *right => {}
            (left, right) => {
                return Err(alloc::format!(
                    "{}:{}: {} is {left:?}, not {right:?}",
                    file!(),
                    line!(),
                    stringify!($left)
                ));
            }
        }
    };
}

/// Something must hold.
macro_rules! holds {
    ($condition:expr) => {
        if !$condition {
            return Err(alloc::format!(
                "{}:{}: not so: {}",
                file!(),
                line!(),
                stringify!($condition)
            ));
        }
    };
}

/// A call must fail with that error.
macro_rules! fails {
    ($call:expr, $errno:ident) => {
        same!($call.err(), Some(rump::Errno::$errno))
    };
}
