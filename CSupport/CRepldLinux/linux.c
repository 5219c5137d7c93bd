#include "CRepldLinux.h"
