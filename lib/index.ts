/** SAS attention (arXiv 2507.07694): fused native kernels, forward and backward, on CPU and CUDA. */
export { type Device, type DeviceId, type DeviceInfo, getDevice, listDevices } from './device.js';
export type { DType } from './dtype.js';
export {
  AnomalyError,
  ArgumentError,
  DeviceError,
  DisposedError,
  DTypeError,
  OutOfMemoryError,
  SasError,
  type SasErrorCode,
  ShapeError,
} from './errors.js';
export type { HostArray, TensorData } from './host_array.js';
export { type Activations, Module, type Placement, Saved, type StateEntry } from './module.js';
export * as ops from './ops/index.js';
export {
  loadSafetensors,
  loadSafetensorsMetadata,
  type SafetensorsEntry,
  type SafetensorsInput,
  type SafetensorsLoadOptions,
  type SafetensorsSaveOptions,
  saveSafetensors,
} from './safetensors/index.js';
export { SasAttention, type SasConfig, type SasGradients, type SasSaved } from './sas_attention.js';
export { scope } from './scope.js';
export { Tensor, type TensorOptions } from './tensor.js';
