//! The GPU through CUDA's driver: found at run time, and done without where it is not.
//!
//! flashpoint is built without CUDA, starts without a driver, and needs nothing but the driver to use a GPU: the kernels are
//! embedded. cuBLAS and cuSOLVER are used where they are found. No call that can panic is made, and no error ends a measurement: it
//! says which piece of work was not done, and that piece is done on the processor.

mod backend;
mod block;
mod driver;
mod fault;
mod inventory;
mod kernels;
mod libraries;
mod math;
mod network;
mod norms;
mod probe;
mod solver;
mod stored;
mod upload;

pub use backend::Buffer;
pub use inventory::{DeviceFacts, DriverFacts, Inventory, LibraryFacts, inventory};
pub use network::Index;
pub use norms::BlockNorms;
pub use probe::Unavailable;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::Matrix;
use crate::context::{DeviceChoice, DeviceSettings};
use crate::error::Result;
use driver::{Driver, Memory};
use libraries::Library;
use math::Blas;
use solver::Solver;

/// An open GPU.
pub struct Device {
    driver: Arc<Driver>,
    blas: Option<Blas>,
    solver: Option<Solver>,
    /// What decides the bits of products beside the device: `CUDA 13.0, cuBLAS 13.1.0`.
    products: String,
}

/// A GPU as a backend, with the one stored matrix that is kept on it.
pub struct Cuda<'m> {
    device: Arc<Device>,
    resident: Option<(&'m Matrix<'m>, Memory)>,
}

/// Share of what is left of the memory that a matrix may take up to be kept on the device.
const RESIDENT: usize = 2;

impl Device {
    /// `NVIDIA H200 (cuda:0)`.
    pub fn name(&self) -> String {
        format!("{} (cuda:{})", self.driver.name, self.driver.ordinal)
    }

    /// The device and whose products it computes with: the same bits where it is the same.
    pub fn fingerprint(&self) -> String {
        format!("{}, {}", self.name(), self.products)
    }

    /// Whether products are cuBLAS's, and not those of flashpoint's own kernel.
    pub fn has_blas(&self) -> bool {
        self.blas.is_some()
    }

    /// Whether all eigenvalues of a matrix can be had here.
    pub fn has_solver(&self) -> bool {
        self.solver.is_some()
    }

    /// Bytes that may still be asked for.
    pub fn memory_left(&self) -> usize {
        self.driver.left()
    }

    /// The same device without the libraries: what computes where only the driver is.
    pub fn plain(&self) -> Arc<Self> {
        Arc::new(Self {
            driver: self.driver.clone(),
            blas: None,
            solver: None,
            products: "own products".to_owned(),
        })
    }

    /// The device as a backend.
    pub fn backend(self: &Arc<Self>) -> Cuda<'static> {
        Cuda { device: self.clone(), resident: None }
    }

    /// The device as a backend for measurements of `matrix`, which is kept on it if it fits, and otherwise comes in panels each
    /// time it is read.
    ///
    /// # Errors
    /// The device fails, or the file cannot be read.
    pub fn holding<'m>(self: &Arc<Self>, matrix: &'m Matrix<'m>) -> Result<Cuda<'m>> {
        let size = matrix.dtype().size().unwrap_or(0) as usize;
        let bytes = matrix.row_count() * matrix.column_count() * size;
        let resident = if bytes <= self.driver.left() / RESIDENT {
            let (rows, columns) = (0..matrix.row_count(), 0..matrix.column_count());
            Some((matrix, upload::upload(&self.driver, matrix, rows, columns)?))
        } else {
            None
        };
        Ok(Cuda { device: self.clone(), resident })
    }
}

/// What was opened, by number and by the directories that were named: asked once in a process.
type Opened = Vec<((usize, Vec<PathBuf>), std::result::Result<Arc<Device>, Unavailable>)>;

static OPENED: Mutex<Opened> = Mutex::new(Vec::new());

/// Opens device `ordinal`, with libraries also from the directories `named`.
///
/// # Errors
/// Why it cannot be used.
pub fn open(ordinal: usize, named: &[PathBuf]) -> std::result::Result<Arc<Device>, Unavailable> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (ordinal, named.to_vec());
    if let Some((_, device)) = opened.iter().find(|(known, _)| *known == key) {
        return device.clone();
    }
    let device = open_anew(ordinal, named);
    opened.push((key, device.clone()));
    device
}

fn open_anew(ordinal: usize, named: &[PathBuf]) -> std::result::Result<Arc<Device>, Unavailable> {
    let present = probe::driver(named)?;
    let driver = Arc::new(probe::open(&present, ordinal)?);
    // One small kernel: a driver that cannot compile it is of no use.
    let compiled =
        Device { driver: driver.clone(), blas: None, solver: None, products: String::new() }.tries();
    compiled.map_err(|fault| Unavailable::Failed { reason: fault.to_string() })?;
    let find = |library| math::find(library, named, present.version).ok();
    let found = find(Library::Blas).and_then(|found| Some((Blas::new(&driver).ok()?, found.version)));
    let (blas, version) = found.unzip();
    let solver = find(Library::Solver).and_then(|found| Solver::new(&driver, found.lacks.is_none()).ok());
    let library = version.map_or_else(|| "own products".to_owned(), |version| format!("cuBLAS {version}"));
    let products = format!("CUDA {}, {library}", probe::version(present.version));
    Ok(Arc::new(Device { driver, blas, solver, products }))
}

impl Device {
    /// Doubles a number on the device.
    fn tries(&self) -> std::result::Result<(), fault::Fault> {
        let buffer = Buffer::<f64>::new(&self.driver, 1)?;
        self.driver.write(&buffer.memory, 0, &1.0f64.to_le_bytes())?;
        let arguments = [driver::Argument::U64(1), driver::Argument::F64(2.0), buffer.all()];
        self.driver.launch(kernels::Module::DenseF64, kernels::SCALE, [1, 1, 1], 256, &arguments)?;
        let mut bytes = [0; 8];
        self.driver.read(&buffer.memory, 0, &mut bytes)?;
        if f64::from_le_bytes(bytes) == 2.0 {
            Ok(())
        } else {
            Err(fault::Fault::Driver { call: "a kernel", code: "computes something else".to_owned() })
        }
    }
}

/// The device that was chosen, where there is one: that of `auto` may be absent.
///
/// # Errors
/// Why the one that was asked for, or the one that `auto` found, is not used. No driver is no error for `auto`.
pub fn chosen(settings: &DeviceSettings) -> std::result::Result<Option<Arc<Device>>, Unavailable> {
    match settings.choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Cuda(ordinal) => open(ordinal, &settings.libraries).map(Some),
        DeviceChoice::Auto => match open(0, &settings.libraries) {
            Ok(device) => Ok(Some(device)),
            Err(Unavailable::NoDriver { .. }) => Ok(None),
            Err(reason) => Err(reason),
        },
    }
}
