// Draws stacked bars of the days from the table below each chart, with uPlot; in the colours of the page.
(function () {
  "use strict";

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function read(table) {
    var rows = Array.from(table.tBodies[0].rows);
    return {
      names: Array.from(table.tHead.rows[0].cells).slice(1).map(function (cell) { return cell.textContent; }),
      days: rows.map(function (row) { return row.cells[0].textContent; }),
      values: Array.from(rows[0].cells).slice(1).map(function (_, column) {
        return rows.map(function (row) { return Number(row.cells[column + 1].dataset.value); });
      }),
    };
  }

  // Each series on top of those after it, so that uPlot, which draws them in order, ends with the lowest.
  function stacked(values) {
    var sums = values[0].map(function () { return 0; });
    return values.slice().reverse().map(function (column) {
      sums = sums.map(function (sum, index) { return sum + column[index]; });
      return sums;
    }).reverse();
  }

  function written(value, currency) {
    var digits = value !== 0 && value < 0.1 ? 4 : currency ? 2 : 1;
    var number = value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    if (!currency) { return number; }
    return currency === "USD" ? "$" + number : number + " " + currency;
  }

  function series(data, currency) {
    return data.names.map(function (name, index) {
      var fill = colour("--series-" + (index + 1));
      return {
        label: name,
        fill: fill,
        stroke: fill,
        width: 0,
        points: { show: false },
        paths: uPlot.paths.bars({ size: [0.7, 64], radius: index === 0 ? 0.15 : 0 }),
        value: function (_, __, ___, day) { return day === null ? "" : written(data.values[index][day], currency); },
      };
    });
  }

  function onAxis(value, currency) {
    var number = value.toLocaleString("en-US", { maximumFractionDigits: 4 });
    return currency === "USD" ? "$" + number : number;
  }

  function axes(data, currency, place) {
    var text = getComputedStyle(place).color;
    var line = { stroke: getComputedStyle(place.closest(".card")).borderTopColor, width: 1 };
    var font = "12px system-ui, sans-serif";
    return [
      { stroke: text, font: font, grid: { show: false }, ticks: line, space: 90, incrs: [1, 2, 7, 14, 28, 56, 91],
        values: function (_, splits) { return splits.map(function (each) { return data.days[each] || ""; }); } },
      { stroke: text, font: font, grid: line, ticks: line, size: 72,
        values: function (_, splits) { return splits.map(function (each) { return onAxis(each, currency); }); } },
    ];
  }

  function draw(place) {
    var table = document.getElementById(place.dataset.chart);
    var currency = table.dataset.currency;
    var data = read(table);
    var days = data.days.map(function (_, index) { return index; });
    var legend = [{ label: "Day", value: function (_, __, ___, day) { return day === null ? "" : data.days[day]; } }];
    place.replaceChildren();
    return new uPlot({
      width: place.clientWidth,
      height: 260,
      scales: { x: { time: false, range: [-0.6, days.length - 0.4] }, y: { range: function (_, __, most) { return [0, most ? most * 1.08 : 1]; } } },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      axes: axes(data, currency, place),
      series: legend.concat(series(data, currency)),
    }, [days].concat(stacked(data.values)), place);
  }

  document.addEventListener("DOMContentLoaded", function () {
    var form = document.querySelector("form[data-zone]");
    var here = new URL(location.href);
    var zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (form && zone && !here.searchParams.has("zone")) {
      here.searchParams.set("zone", zone);
      location.replace(here);
      return;
    }
    document.querySelectorAll("[data-closed-with-scripts]").forEach(function (each) { each.open = false; });
    document.querySelectorAll("[data-chart]").forEach(function (place) {
      place.hidden = false;
      var chart = draw(place);
      new ResizeObserver(function () {
        if (place.clientWidth !== chart.width) { chart.setSize({ width: place.clientWidth, height: 260 }); }
      }).observe(place);
      new MutationObserver(function () { chart.destroy(); chart = draw(place); })
        .observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
    });
  });
})();
