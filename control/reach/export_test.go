package reach

// Where tests put services.
var Services, EndpointSlices = services, endpointSlices
